"""What the expression policy saves, loads and merges: its adapter alone, and none that was trained for another base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_model

from emodistill.errors import UserError
from emodistill.policy.chat_backends import LocalModel


def test_the_merged_model_speaks_as_the_policy(make_policy, batch):
    policy = make_policy().eval()
    merged = policy.merged(torch.float32)
    assert not any("lora" in name for name, _ in merged.named_parameters())

    def difference():
        ours = policy.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        theirs = merged(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return (ours - theirs)[batch.attention_mask].abs().max().item()

    assert difference() < 1e-4
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.mul_(2)
    assert difference() > 1e-2
    policy.merge_into(merged)
    assert difference() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_weights_are_base_plus_delta_to_the_bit(make_policy, batch, dtype):
    policy = make_policy(compute_dtype=str(dtype).removeprefix("torch."))
    merged = policy.merged(dtype)
    policy(batch).logprobs.sum().backward()  # from here on the layers keep their weights unpacked
    again = policy.merged(dtype)
    layers = 0
    for name, module in merged.named_modules():
        layer = policy.model.get_base_model().get_submodule(name)
        if isinstance(module, torch.nn.Linear) and hasattr(layer, "base_layer"):
            packed = layer.base_layer.weight
            plain = dequantize_4bit(packed.data, packed.quant_state)
            wanted = (plain.float() + layer.get_delta_weight("policy").float()).to(dtype)
            assert torch.equal(module.weight, wanted) and torch.equal(again.get_submodule(name).weight, wanted)
            layers += 1
    assert layers == 14


def test_the_state_dict_is_the_adapter_and_foreign_layouts_are_refused_by_name(make_policy):
    policy = make_policy()
    state = policy.state_dict()
    assert len(state) == 28 and all(".lora_" in name and ".policy." in name for name in state)
    policy.load_state_dict(state)
    foreign = {name.replace("lora_A", "lora_Z"): tensor for name, tensor in state.items()}
    with pytest.raises(RuntimeError, match=r"Missing key.*lora_A(.|\n)*Unexpected key.*lora_Z"):
        policy.load_state_dict(foreign)


def test_an_adapter_comes_back_as_it_was_saved(make_policy, batch, tmp_path):
    policy = make_policy().eval()
    policy.save_adapter(tmp_path / "adapter")
    policy.save_adapter(tmp_path / "adapter")  # over an older one
    again = make_policy(init_adapter=str(tmp_path / "adapter"), lora={}).eval()
    assert torch.equal(again(batch).logprobs, policy(batch).logprobs)
    assert again.model.peft_config["policy"].lora_dropout == 0.1
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "emodistill.json"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_in_pefts_own_format_is_read_by_peft(make_policy, tiny_model, batch, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    saved_adapter = tmp_path / "adapter"
    make_policy(four_bit=False).save_adapter(saved_adapter)
    settings = json.loads((saved_adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == Path(tiny_model).name
    assert not any(isinstance(value, str) and Path(value).is_absolute() for value in settings.values())
    ours = make_policy(four_bit=False, init_adapter=str(saved_adapter)).eval()
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), saved_adapter).eval()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    torch.testing.assert_close(ours.model(**inputs).logits, theirs(**inputs).logits)


def test_an_adapter_for_another_base_or_vocabulary_is_refused_by_name(make_policy, saved_adapter, tmp_path):
    other = build_tiny_model(tmp_path / "other_model", seed=1)
    with pytest.raises(UserError, match=f"{saved_adapter} was trained for base model .*other_model"):
        make_policy(base_model=other, init_adapter=str(saved_adapter))
    with pytest.raises(UserError, match="was trained for vocabulary 'goemotions28'.*'ekman7'"):
        make_policy(vocabulary="ekman7", init_adapter=str(saved_adapter))


def test_an_adapter_for_a_base_in_another_precision_is_refused_and_an_older_one_is_not(make_policy, tmp_path):
    make_policy(four_bit=False).save_adapter(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"adapter was trained with policy\.four_bit=false; use the same here"):
        make_policy(four_bit=True, init_adapter=str(tmp_path / "adapter"))
    file = tmp_path / "adapter" / "emodistill.json"
    note = json.loads(file.read_text())
    assert note.pop("four_bit") is False
    file.write_text(json.dumps(note))
    make_policy(four_bit=True, init_adapter=str(tmp_path / "adapter"))


@pytest.mark.parametrize("four_bit", [True, False])
def test_a_speaker_has_the_base_that_its_adapter_was_trained_on(make_policy, tiny_model, batch, tmp_path, four_bit):
    trained = make_policy(four_bit=four_bit)
    trained.save_adapter(tmp_path / "adapter")
    speaks = LocalModel(tiny_model, "float32", str(tmp_path / "adapter"), device="cpu")._merged()
    expected = trained.merged(torch.float32)
    assert all(torch.equal(one, two) for one, two in zip(speaks.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("asked", ["recipe", "open"])
def test_a_speaker_without_its_adapter_is_named(tiny_model, tmp_path, asked):
    """The folder of a stage is not that of its adapter."""
    with pytest.raises(UserError, match=r"holds no adapter \(emodistill\.json is missing\)"):
        getattr(LocalModel(tiny_model, "float32", str(tmp_path), device="cpu"), asked)()


def test_a_speaker_shares_the_weights_of_its_own_adapter_alone(make_policy, tiny_model, tmp_path):
    """Not those of an older one in the same place, nor of one for another vocabulary."""
    make_policy().save_adapter(tmp_path / "adapter")
    settings = (tiny_model, "float32", str(tmp_path / "adapter"))
    first, again = (LocalModel(*settings, device="cpu")._weights() for _ in range(2))
    with pytest.raises(UserError, match="was trained for vocabulary"):
        LocalModel(*settings, vocabulary="ekman7", device="cpu")._weights()
    make_policy().save_adapter(tmp_path / "adapter")  # random weights, others than before
    assert again is first and LocalModel(*settings, device="cpu")._weights() is not first


def test_a_speaker_in_float16_is_refused_by_its_own_key():
    with pytest.raises(UserError, match=r"^speaker\.dtype=float16: with an adapter, choose auto, float32 or bfloat16"):
        LocalModel("embedded", "float16", adapter="somewhere", device="cpu")


def test_an_adapter_remembers_the_form_of_its_chats_and_refuses_another_template(make_policy, saved_adapter, tmp_path):
    note = json.loads((saved_adapter / "emodistill.json").read_text())
    assert note["chat"] == "as the model's own template writes it"
    other = Path(build_tiny_model(tmp_path / "model"))
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("in messages", "in messages if message.role != 'system'"))
    with pytest.raises(
        UserError, match=f"{saved_adapter} was trained with another chat template or tokenizer of .*model"
    ):
        make_policy(base_model=str(other), init_adapter=str(saved_adapter))
    older = shutil.copytree(saved_adapter, tmp_path / "older")
    del note["chat_fingerprint"]
    (older / "emodistill.json").write_text(json.dumps(note))
    make_policy(base_model=str(other), init_adapter=str(older)).save_adapter(tmp_path / "another")
    written = json.loads((tmp_path / "another" / "emodistill.json").read_text())["chat"]
    assert written == "the system message stands before the first user message, for the template has no role for it"


def test_a_damaged_adapter_is_refused_by_name(make_policy, saved_adapter, tmp_path):
    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(saved_adapter, folder)
        change(folder)
        with pytest.raises(UserError, match=str(folder)) as caught:
            make_policy(init_adapter=str(folder))
        return str(caught.value)

    def drop_tensor(folder):
        tensors = load_file(folder / "adapter_model.safetensors")
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, folder / "adapter_model.safetensors")

    assert "is missing" in broken("gone", lambda folder: (folder / "adapter_model.safetensors").unlink())
    assert "cannot be read" in broken(
        "junk", lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 9)
    )
    assert "1 tensors differ" in broken("short", drop_tensor)
    assert "damaged" in broken("note", lambda folder: (folder / "emodistill.json").write_text("{"))
    assert "base model 'None'" in broken(
        "empty", lambda folder: (folder / "emodistill.json").write_text(json.dumps({}))
    )

    def rename_emotions(folder):
        note = folder / "emodistill.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | {"emotions": "hidden"}))

    assert "emotions=hidden: use one of prompted, none, self_selected" in broken("emotions", rename_emotions)


def test_an_unknown_compute_dtype_is_refused(make_policy):
    with pytest.raises(UserError, match="dtype=float8: choose auto"):
        make_policy(compute_dtype="float8")


@pytest.mark.filterwarnings("ignore")  # PEFT warns of some
@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_adapters_that_would_be_left_out_are_refused(make_policy, changes):
    """The merged model would speak as another policy than the one that learns; the output layer would learn nothing."""
    with pytest.raises(UserError, match=r"policy.lora: the adapter on .* would be left out"):
        make_policy(lora={"r": 4, "target_modules": "all-linear"} | changes)
