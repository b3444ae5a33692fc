"""What a model's files say against it: one sentence each, before PyTorch is loaded and anything is trained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import build_tiny_model

from emodistill.errors import UserError
from emodistill.language_models.local import load_model, load_tokenizer
from emodistill.language_models.model_files import INDEX, quick_check
from emodistill.language_models.quantised import load_quantised


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


GPTQ = {"quant_method": "gptq", "bits": 2, "group_size": 128}
FOUR_BIT = {"quant_method": "bitsandbytes", "load_in_4bit": True}
KINDS = {
    "2 bits": ({"quantization_config": GPTQ}, r"quantised already \(gptq, 2 bits\).*16 bits"),
    "4 bits": ({"quantization_config": FOUR_BIT}, r"quantised already \(bitsandbytes, 4 bits\)"),
    "an encoder": (
        {"is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        r"encoder beside its decoder \(T5ForConditionalGeneration\)",
    ),
    "pictures": (
        {"vision_config": {}, "text_config": {}, "architectures": ["Gemma3ForConditionalGeneration"]},
        r"more than text \(Gemma3ForConditionalGeneration\); choose a text model",
    ),
    "a reader": ({"architectures": ["BertForMaskedLM"]}, r"no causal language model \(BertForMaskedLM\)"),
    "Conv1D": ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "has Conv1D layers"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_models_are_refused_by_name(copy, kind):
    changes, words = KINDS[kind]
    quick_check(str(copy))
    configure(copy, **changes)
    for refused in (quick_check, load_tokenizer, load_model, lambda name: load_quantised(name, None)):
        with pytest.raises(UserError, match=f"model={copy}: .*{words}"):
            refused(str(copy))


def test_an_architecture_that_transformers_does_not_know_is_named(copy):
    configure(copy, model_type="novel", architectures=["NovelForCausalLM"])
    with pytest.raises(UserError, match=r"transformers .* has no language model of its kind \(novel\)"):
        load_model(str(copy), "float32")


def damage(name):
    def change(folder):
        (folder / name).write_text("{", encoding="utf-8")

    return change


def lose(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def cut(keep):
    def change(folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:keep])

    return change


def shards(folder, lost=None, short=None):
    """The weights in several files, of which one is missing or cut short."""
    load_model(str(folder), "float32").save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    names = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(names) > 2 and (folder / INDEX).is_file()
    if lost is not None:
        (folder / names[lost]).unlink()
    if short is not None:
        path = folder / names[short]
        path.write_bytes(path.read_bytes()[:-1])


BROKEN = {
    "config": (damage("config.json"), "config.json is damaged"),
    "no config": (lose("config.json"), "holds no config.json"),
    "no weights": (lose("model.safetensors"), r"holds no \*.safetensors"),
    "cut": (cut(-100), r"model.safetensors is cut short: [\d,]+ of [\d,]+ bytes.*fetch it again"),
    "empty": (cut(0), "is cut short at 0 bytes"),
    "header": (cut(50), "is cut short at 50 bytes"),
    "shard": (lambda folder: shards(folder, lost=1), "holds no model-00002-of"),
    "short shard": (lambda folder: shards(folder, short=-1), r"model-.* is cut short"),
    "index": (lambda folder: (shards(folder), damage(INDEX)(folder)), "index.json is damaged"),
    "tokenizer": (lose("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer; copy"),
    "template": (lose("chat_template.jinja"), "no chat template; use an instruction-tuned model"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_missing_or_damaged_is_named(copy, what):
    change, words = BROKEN[what]
    change(copy)
    with pytest.raises(UserError, match=f"model={copy}: .*{words}"):
        quick_check(str(copy))


def test_shards_and_files_of_the_hub_that_are_not_here_pass(copy, monkeypatch, tmp_path):
    shards(copy)
    quick_check(str(copy))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for model in ("nobody/nothing", "embedded", "no such/id"):
        quick_check(model)


@pytest.fixture
def snapshot(copy, monkeypatch, tmp_path):
    """The model as `some/model` in a cache of the hub."""
    folder = tmp_path / "models--some--model" / "snapshots" / "0123"
    shutil.copytree(copy, folder)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return folder


@pytest.mark.parametrize("lost", [["model.safetensors"], ["model.safetensors", "tokenizer.json"]])
def test_what_the_cache_of_the_hub_lacks_is_no_damage_for_it_is_fetched(snapshot, lost):
    """The check of a model fetches its small files alone; a download may have been interrupted."""
    lose(*lost)(snapshot)
    quick_check("some/model")


def test_a_model_in_the_cache_of_the_hub_is_looked_at(snapshot):
    quick_check("some/model")
    configure(snapshot, quantization_config=GPTQ)
    with pytest.raises(UserError, match="model=some/model: .*quantised already"):
        quick_check("some/model")


def test_the_check_loads_no_pytorch(tiny):
    code = f"import sys; from emodistill.language_models.model_files import quick_check; quick_check({tiny!r}); "
    code += "sys.exit(len({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_train_refuses_a_model_before_it_loads_pytorch(copy, tmp_path):
    """In a process of its own: what was imported when it ended. JPO would miss an earlier stage first."""
    configure(copy, quantization_config=GPTQ)
    root = Path(__file__).resolve().parents[2]
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        f"sys.path.insert(0, {str(root)!r}); sys.argv[1:] = ['stage=sft', 'model.base_model={copy}', "
        f"'run_dir={tmp_path / 'run'}']; runpy.run_path({str(root / 'train.py')!r}, run_name='__main__')"
    )
    clean = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert ended.returncode == 2 and ended.stdout.split() == ["False"]
    assert f"error: model={copy}: its weights are quantised already" in ended.stderr
    assert not (tmp_path / "run").exists()
