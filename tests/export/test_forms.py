"""What is exported is read by the libraries that it is for, without this package, and replies as the run's agent."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from digits import build_model
from safetensors.torch import load_file, save_file
from tiny_model import build_tokenizer, random_llama
from transformers import AutoModelForCausalLM

from emodistill.errors import UserError
from emodistill.export import TrainedAgent, Wanted, verify, write_export
from emodistill.export.card import _results as results
from emodistill.export.gguf_file import can_be_gguf, same_tensors, write_gguf
from emodistill.export.ollama import GGUF, MODELFILE, modelfile
from emodistill.export.prompt_form import template_text
from emodistill.export.verification import BOUNDS, check_private, compare, verify_peft
from emodistill.language_models.embedded import import_gguf
from emodistill.language_models.local import load_tokenizer

FORMS = {"peft": "peft", "merged": "merged", "ollama": "gguf"}
LOADED = re.compile(r"^```python\n((?:from peft|from transformers).*?)^```", re.MULTILINE | re.DOTALL)
SAYS = """
def says(model, tokenizer):
    replies = []
    for messages in json.loads(PROMPTS):
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        settings = {"do_sample": False, "max_new_tokens": LONGEST, "attention_mask": torch.ones(1, len(ids))}
        said = model.generate(torch.tensor([ids]), **settings)
        replies.append(said[0, len(ids):].tolist())
    return replies
"""
EACH = """
os.chdir(FOLDER)
loaded = {}
exec(LOADING, loaded)
found.append(says(loaded["model"], loaded["tokenizer"]))
"""
FROM_GGUF = """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("my ollama", gguf_file="model.gguf", dtype="float32").eval()
tokenizer = AutoTokenizer.from_pretrained("my ollama")
"""


def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / folder.name


def changed(file, change):
    """Change the tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def flip(tensors):
    """The last bit of one weight."""
    key = sorted(tensors)[0]
    flat = tensors[key].view(-1).view(torch.int32 if tensors[key].dtype == torch.float32 else torch.int16)
    flat[3] ^= 1


def test_each_form_is_loaded_as_its_card_says_and_replies_as_the_run(exported, fresh, own, agent):
    code = "import json, os, torch\nfound = []\n" + SAYS
    for form in FORMS:
        card = (exported(form) / "README.md").read_text(encoding="utf-8")
        loading = FROM_GGUF if form == "ollama" else LOADED.search(card)[1]
        code += EACH.replace("FOLDER", repr(str(exported(form).parent))).replace("LOADING", repr(loading))
    longest = agent.settings.config["sampler"]["max_new_tokens"]
    prompts = json.dumps([prompt.messages for prompt in own.prompts])
    code = code.replace("PROMPTS", repr(prompts)).replace("LONGEST", str(longest))
    assert fresh(code + "print(json.dumps(found))") == [own.replies] * len(FORMS)
    assert len(own.replies) == 2 and len(set(map(tuple, own.replies))) == 2


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_a_flipped_bit_is_found(exported, agent, tmp_path, form):
    folder = copied(exported(form), tmp_path)
    verify(agent, folder, FORMS[form], "float16")
    changed(folder / ("adapter_model.safetensors" if form == "peft" else "model.safetensors"), flip)
    with pytest.raises(UserError, match=f"{folder.name} is not the run's own agent: its (adapter|weights) differs"):
        verify(agent, folder, FORMS[form], "float16")


def test_a_flipped_bit_of_a_gguf_file_is_found(exported, agent, tmp_path):
    folder = copied(exported("ollama"), tmp_path)
    content = bytearray((folder / GGUF).read_bytes())
    content[-1000] ^= 1
    (folder / GGUF).write_bytes(content)
    with pytest.raises(UserError, match="its weights differs"):
        verify(agent, folder, "gguf", "float16")


def test_another_base_is_found(exported, agent, tmp_path):
    folder = copied(exported("peft"), tmp_path)
    other = build_model(tmp_path / "other", seed=1)
    shutil.copy(f"{other}/model.safetensors", folder / "base" / "model.safetensors")
    with pytest.raises(UserError, match="its base model differs"):
        verify(agent, folder, "peft", "float16")


def test_another_adapter_is_found_by_what_it_says(agent, exported, own, tmp_path):
    """Even where its file is the run's by name and hash, as after training goes on."""
    folder = copied(exported("peft"), tmp_path)

    def louder(tensors):
        for tensor in tensors.values():
            tensor *= 3

    changed(folder / "adapter_model.safetensors", louder)
    run = copied(agent.run, tmp_path)
    shutil.copy(folder / "adapter_model.safetensors", run / "sft" / "adapter" / "adapter_model.safetensors")
    with pytest.raises(UserError, match="differs"):
        verify_peft(TrainedAgent.of(run, "sft"), folder, own)


def test_another_template_is_found(exported, agent, tmp_path):
    folder = copied(exported("merged"), tmp_path)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template.replace("assistant", "machine"), encoding="utf-8")
    with pytest.raises(UserError, match="its chat template differs"):
        verify(agent, folder, "merged", "float16")


def test_what_fails_leaves_nothing(run, tmp_path):
    told = TrainedAgent.of(run, "sft", licence=f"see {tmp_path}/licence")
    with pytest.raises(UserError, match="README.md would name a folder of this machine"):
        write_export(told, tmp_path / "out" / "it", Wanted("merged"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_secret_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "hf_abcdefgh")
    with pytest.raises(UserError, match="or a secret"):
        write_export(TrainedAgent.of(run, "sft", licence="hf_abcdefgh"), tmp_path / "it", Wanted("merged"))


def test_a_user_without_a_name_exports_too(tmp_path, monkeypatch):
    def nameless():
        raise OSError("no username set in the environment")

    monkeypatch.setattr("getpass.getuser", nameless)
    (tmp_path / "README.md").write_text("A card.", encoding="utf-8")
    check_private(tmp_path)


@pytest.mark.parametrize(
    ("words", "private"),
    [
        ("[it](https://huggingface.co/datasets/me/episodes)", False),  # whose login name is the name on the hub
        (json.dumps({"path": "/".join(["", "home", "me", "it"])}), True),
        ("file:///Users/me/it", True),
        (r"C:\Users\me\it", True),
        (json.dumps({"path": r"C:\Users\me\it"}), True),
    ],
)
def test_a_home_is_private_and_a_name_is_not(tmp_path, monkeypatch, words, private):
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    (tmp_path / "README.md").write_text(words, encoding="utf-8")
    with pytest.raises(UserError, match="would name a folder") if private else nullcontext():
        check_private(tmp_path)


def test_a_domain_without_a_valid_episode_has_dashes_in_the_card(tmp_path):
    nothing = [None, None, None]
    row = {"domain": "all", "arm": "sft", "episodes": 3, "scenarios": 2}
    rows = [row | {"success_interval": [1, 0.5, 1], "utility_interval": [0.625, 0.5, 0.75]}]
    rows.append(row | {"domain": "debt", "success_interval": nothing, "utility_interval": nothing})
    (tmp_path / "evaluation").mkdir()
    report = {"tables": {"arms": rows}, "about": {"counterparty": "a simulation", "date": "today"}}
    (tmp_path / "evaluation" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    shown = results(SimpleNamespace(run=tmp_path, arm=SimpleNamespace(name="sft")))
    assert "| all | sft | 3 | 2 | 1.00 [0.50, 1.00] | 0.62 [0.50, 0.75] |" in shown
    assert shown.endswith("| debt | sft | 3 | 2 | – [–, –] | – [–, –] |")


def test_an_existing_folder_is_refused(agent, tmp_path):
    with pytest.raises(UserError, match="exists; give another name"):
        write_export(agent, tmp_path, Wanted("peft"))


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        ("vanilla", "not trained"),
        ("mean_return+sft", "from a corpus"),
        ("sft#2", "repetition"),
        ("closing.Own+sft", "class of yours"),
        ("emodistill", "jpo"),
    ],
)
def test_what_cannot_be_exported(run, arm, reason):
    with pytest.raises(UserError, match=reason):
        TrainedAgent.of(run, arm)


@pytest.mark.parametrize("wrong", [{"form": "onnx"}, {"base": "some"}, {"dtype": "float32"}])
def test_what_there_is_not(wrong):
    with pytest.raises(UserError, match="choose"):
        Wanted(**wrong)


def test_a_base_that_nobody_else_has_is_included(agent, tmp_path):
    with pytest.raises(UserError, match="leave base= out to include it"):
        write_export(agent, tmp_path / "it", Wanted("peft", base="named"))


def test_nothing_names_this_machine(exported, place):
    for form in FORMS:
        for path in exported(form).rglob("*"):
            if path.is_file() and path.suffix not in (".safetensors", ".gguf"):
                text = path.read_text(encoding="utf-8")
                assert str(place.folder) not in text and "export it" not in text, path


def test_the_selector_lies_beside_every_form(exported):
    for form in FORMS:
        names = {path.name for path in exported(form).iterdir()}
        assert {"agent.json", "selector.safetensors", "selector.json", "vocabulary.yaml", "domains"} <= names
        assert not list(exported(form).rglob("*.ckpt")) + list(exported(form).rglob("*.bin"))


def test_gguf_is_what_two_readers_read(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    model = random_llama(max_position_embeddings=512, rope_parameters=rope, tie_word_embeddings=False).eval()
    tokenizer = load_digits(tmp_path)
    write_gguf(model, tokenizer, tmp_path / GGUF, "tiny", torch.float16)
    assert same_tensors(tmp_path / GGUF, model, torch.float16)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=GGUF, dtype=torch.float32).eval()
    ids = torch.arange(3, 60).unsqueeze(0)
    half = random_llama(max_position_embeddings=512, rope_parameters=rope, tie_word_embeddings=False).half().float()
    assert torch.allclose(read(ids).logits, half.eval()(ids).logits, atol=1e-5)
    (tmp_path / "ours").mkdir()
    import_gguf(tmp_path / GGUF, tmp_path / "ours")
    again = load_tokenizer(str(tmp_path / "ours"))
    for text in ("I can pay in 90 days.<|im_end|>", "10:30 PM — naïve"):
        assert again.encode(text) == tokenizer.encode(text)
    assert again.chat_template == tokenizer.chat_template


def load_digits(folder):
    return load_tokenizer(build_model(folder / "model"))


def test_only_known_tokenizers_become_gguf(tmp_path):
    assert can_be_gguf(random_llama(), load_digits(tmp_path))
    assert not can_be_gguf(random_llama(), build_tokenizer())


def test_the_modelfile_samples_as_the_run(exported, agent):
    text = (exported("ollama") / MODELFILE).read_text(encoding="utf-8")
    assert text.startswith("FROM ./model.gguf\n")
    for line in ("temperature 0.7", "top_k 40", "top_p 1.0", "repeat_penalty 1.0", "num_predict 6", "num_ctx 2048"):
        assert f"PARAMETER {line}\n" in text
    assert 'PARAMETER stop "<|im_end|>"\n' in text
    safetensors = modelfile(".", agent.chat_format, agent.settings.config["sampler"], 2048)
    assert safetensors.replace("FROM .\n", "FROM ./model.gguf\n") == text


def test_the_tokens_of_a_prompt_are_those_of_its_messages(own, agent):
    tokenizer = agent.chat_format.tokenizer
    for prompt in own.prompts:
        assert tokenizer.encode(template_text(tokenizer, prompt.messages), add_special_tokens=False) == prompt.ids


def test_bounds_are_above_what_rounding_does(agent, exported):
    measured = verify(agent, exported("merged"), "merged", "float16")
    assert 0 < measured.largest < BOUNDS["float16"] and measured.tokens > 2


def test_the_page_shows_the_prompt_as_the_template_writes_it(own, agent):
    """The tiny model has the template of the demo's."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    shown = re.search(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    assert template_text(agent.chat_format.tokenizer, own.prompts[1].messages) == shown


def test_log_probabilities_beyond_the_bound_are_refused_though_all_replies_are_equal(agent, own):
    model, tokenizer = agent.speaking, agent.chat_format.tokenizer
    within, beyond = ([row + shift * BOUNDS["peft"] for row in own.logprobs] for shift in (0.5, 2.0))
    assert compare(replace(own, logprobs=within), model, tokenizer, "peft", Path("folder")).largest > 0
    with pytest.raises(UserError, match="a log-probability"):
        compare(replace(own, logprobs=beyond), model, tokenizer, "peft", Path("folder"))
