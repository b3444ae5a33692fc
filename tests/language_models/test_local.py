"""Models by name: every way to lack one is a sentence that names the key and the way out."""

import errno
import gc
import json
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_model
from transformers import PreTrainedModel

from emodistill.errors import UserError
from emodistill.language_models.local import (
    chat_fingerprint,
    device_of,
    dtype_of,
    fingerprint,
    load_model,
    load_tokenizer,
    model_folder,
    public_name,
    resolve,
    shared_model,
)
from emodistill.language_models.quantised import load_quantised


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_folder_and_a_hub_id_resolve_to_themselves(tiny):
    assert resolve(tiny) == tiny
    assert resolve("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere-at-all", "a/b/c", "smol", ""])
def test_a_path_that_is_not_there_is_named(name):
    with pytest.raises(UserError, match="model=.*no such folder.*model=embedded"):
        resolve(name)


def test_an_unreachable_hub_is_one_sentence(offline, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="model=nobody/nothing: not in the local cache.*model=embedded"):
        load_tokenizer("nobody/nothing")


def test_a_full_disk_is_not_taken_for_a_hub_that_cannot_be_reached(monkeypatch):
    def download(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(OSError, match="No space left"):
        load_tokenizer("some/model")


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_named_where_its_entries_are_compared(copy, file):
    (copy / file).write_text('{"version":')
    with pytest.raises(UserError, match="model=.*: no tokenizer can be read from"):
        chat_fingerprint(str(copy))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float32])
def test_a_model_comes_in_the_dtype_asked_for_and_ready_to_use(tiny, dtype):
    model = load_model(tiny, dtype)
    assert {str(weight.dtype) for weight in model.parameters()} == {f"torch.{dtype}".replace("torch.torch", "torch")}
    assert not model.training


def drop_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def rename_all_weights(folder):
    """As a model saved while it was compiled."""
    weights = {f"_orig_mod.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def widen_the_configuration(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 192}))


@pytest.mark.parametrize(
    ("change", "load"),
    [
        (drop_a_weight, load_model),
        (drop_a_weight, load_quantised),
        (rename_all_weights, load_model),
        (widen_the_configuration, load_model),
    ],
)
def test_a_weight_that_the_files_lack_is_named_and_not_drawn_at_random(copy, change, load):
    change(copy)
    with pytest.raises(UserError, match=r"model=.* lacks \d+ weights .*first .*; fetch the model again"):
        load(str(copy), torch.float32)


def test_a_dtype_that_is_none_is_named(tiny):
    with pytest.raises(UserError, match="dtype=int3: choose auto or one of bfloat16"):
        load_model(tiny, "int3")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_named(copy, lost):
    (copy / lost).unlink()
    with pytest.raises(UserError, match="model=.*holds no"):
        model_folder(str(copy))


def test_damaged_weights_are_named(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be loaded.*delete that folder"):
        load_model(str(copy), "float32")


def test_a_model_without_a_chat_template_is_refused(copy):
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_tokenizer(str(copy))


def test_fingerprint_knows_the_model_and_not_the_place(tiny, copy):
    assert fingerprint(tiny) == fingerprint(str(copy))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "0.0"}))
    assert fingerprint(tiny) == fingerprint(str(copy))
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    assert fingerprint(tiny) != fingerprint(str(copy))


def test_fingerprint_sees_a_fine_tuned_copy(tiny, copy):
    tensors = load_file(copy / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, copy / "model.safetensors", {"format": "pt"})
    assert fingerprint(tiny) != fingerprint(str(copy))


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({}, torch.float32),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_auto_takes_bfloat16_only_where_the_hardware_multiplies_it(monkeypatch, instructions, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a GPU that is not used decides nothing
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert dtype_of("auto", torch.device("cpu")) == expected


def two_gpus(monkeypatch, native):
    """A machine with GPUs of which each multiplies bfloat16 or emulates it; yes, torch emulates it anywhere."""
    current = [0]

    @contextmanager
    def chosen(device):
        current.append(0 if device.index is None else device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", chosen)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native[current[-1]]
    )


@pytest.mark.parametrize("native", [(True, False), (False, True)])
def test_auto_takes_bfloat16_on_a_gpu_that_multiplies_it(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not native[0]})
    two_gpus(monkeypatch, native)
    expected = [torch.bfloat16 if yes else torch.float32 for yes in native]
    assert [dtype_of("auto", torch.device("cuda", index)) for index in (0, 1)] == expected
    assert dtype_of("auto", device_of("auto")) == expected[0]


def test_the_device_is_the_gpu_where_there_is_one(monkeypatch):
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    for name, words in (("gpu", "finds no GPU"), ("cuda:1", "finds no GPU"), ("mps", "choose auto, cpu, gpu")):
        with pytest.raises(UserError, match=f"device={name}: .*{words}"):
            device_of(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("gpu") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="device=cuda:2: PyTorch finds 2 here"):
        device_of("cuda:2")


def test_a_model_computes_where_it_is_wanted(tiny, monkeypatch):
    """Without a GPU at hand: what PyTorch is asked for."""
    places = []
    monkeypatch.setattr(PreTrainedModel, "to", lambda model, place: places.append(place) or model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cpu", "auto", torch.device("cuda", 1)):
        load_model(tiny, "float32", device)
    assert places == [torch.device("cpu"), torch.device("cuda"), torch.device("cuda", 1)]


def test_the_public_name_is_no_path(tiny, tmp_path):
    assert public_name("embedded") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert public_name("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"
    for known, name in (("", "copy"), ("/models/mine", "copy"), ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B")):
        copy = shutil.copytree(tiny, tmp_path / name.replace("/", "_") / "copy", dirs_exist_ok=True)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"_name_or_path": known}))
        assert public_name(str(copy)) == public_name(f"{copy}/") == name


def test_equal_weights_are_in_memory_once_while_somebody_uses_them(tiny, copy):
    cpu = torch.device("cpu")
    one = shared_model(tiny, torch.float32, cpu)
    assert shared_model(str(copy), torch.float32, cpu) is one  # the same files elsewhere
    assert shared_model(tiny, "float32", "cpu") is one and not any(weight.requires_grad for weight in one.parameters())
    assert shared_model(tiny, torch.bfloat16, cpu) is not one
    merged = shared_model(tiny, torch.float32, cpu, "adapter", lambda: load_model(tiny, torch.float32))
    assert merged is not one and shared_model(tiny, torch.float32, cpu, "adapter", pytest.fail) is merged
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def test_threads_that_ask_at_once_get_one_model(tiny):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: shared_model(tiny, torch.float32, torch.device("cpu")), range(4)))
    assert len(set(map(id, found))) == 1


def test_another_chat_template_has_another_fingerprint(tmp_path):
    for name, content in {"config.json": "{}", "model.safetensors": "", "tokenizer_config.json": "{}"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    found = {chat_fingerprint(str(tmp_path))}
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    found.add(chat_fingerprint(str(tmp_path)))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }} ", encoding="utf-8")
    found.add(chat_fingerprint(str(tmp_path)))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}', encoding="utf-8")
    found.add(chat_fingerprint(str(tmp_path)))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}", "a": 1}', encoding="utf-8")
    found.add(chat_fingerprint(str(tmp_path)))
    assert len(found) == 4  # of the tokenizer's settings only the template counts


@pytest.mark.parametrize(
    ("change", "another"),
    [
        (lambda saved: saved["model"]["vocab"].update(extra=999), True),
        (lambda saved: saved["model"]["merges"].pop(), True),
        (lambda saved: saved["added_tokens"].pop(), True),
        (lambda saved: saved.update(version="2.0", padding=None), False),
        (lambda saved: saved["model"].update(merges=[" ".join(pair) for pair in saved["model"]["merges"]]), False),
    ],
)
def test_another_tokenizer_has_another_fingerprint_and_another_way_to_save_it_has_not(tiny, tmp_path, change, another):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    saved = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    change(saved)
    (copy / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    assert (chat_fingerprint(tiny) != chat_fingerprint(str(copy))) == another


def test_a_tokenizer_of_sentencepiece_counts_too(tmp_path):
    for name, content in {"config.json": "{}", "model.safetensors": "", "tokenizer.model": "one"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    before = chat_fingerprint(str(tmp_path))
    (tmp_path / "tokenizer.model").write_text("two", encoding="utf-8")
    assert chat_fingerprint(str(tmp_path)) != before
