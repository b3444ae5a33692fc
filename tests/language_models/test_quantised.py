"""The quantised base that is kept in the cache: the same bytes as quantised anew, whatever happened to the files."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from emodistill.errors import UserError
from emodistill.language_models.quantised import load_quantised


@pytest.fixture
def model(tmp_path):
    return build_tiny_model(tmp_path / "model")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("EMODISTILL_CACHE", str(folder))
    return folder / "quantised"


def anew(model, dtype=torch.float32):
    """As transformers quantises, without any cache."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(model, quantization_config=settings, dtype=dtype)


def assert_same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys() and any("nested_absmax" in key for key in mine)
    for key, tensor in mine.items():
        assert tensor.dtype == theirs[key].dtype and torch.equal(tensor, theirs[key]), key
    ids = torch.arange(5, 25).unsqueeze(0)
    assert torch.equal(one(input_ids=ids).logits, other(input_ids=ids).logits)


def folders(cache):
    return sorted(path for path in cache.iterdir() if path.is_dir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_what_quantising_anew_gives(model, cache, dtype):
    fresh = load_quantised(model, dtype)
    (folder,) = folders(cache)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    kept = load_quantised(model, dtype)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    for loaded in (fresh, kept):
        assert_same(loaded, anew(model, dtype))
    assert kept.name_or_path == fresh.name_or_path == model


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: (path.parent / "config.json").write_text("{}"),
        lambda path: (path.parent / "checksums.json").write_text("[1"),
        lambda path: (path.parent / "checksums.json").write_text("[]"),
    ],
    ids=["truncated", "one bit", "empty", "gone", "another config", "damaged checksums", "no checksums"],
)
def test_a_damaged_copy_is_made_again(model, cache, damage):
    load_quantised(model, torch.float32)
    (folder,) = folders(cache)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder / "model.safetensors")
    assert_same(load_quantised(model, torch.float32), anew(model))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert folders(cache) == [folder]


def test_other_weights_or_another_dtype_are_another_copy(model, cache):
    load_quantised(model, torch.float32)
    load_quantised(model, torch.bfloat16)
    assert len(folders(cache)) == 2
    file = Path(model) / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 5] += 1.0  # one number in the middle of the file, whose size stays
    save_file(tensors, file, metadata={"format": "pt"})
    assert_same(load_quantised(model, torch.float32), anew(model))
    assert len(folders(cache)) == 3


def test_two_processes_at_once_get_the_same_and_leave_one_copy(model, cache):
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from emodistill.language_models.quantised import load_quantised\n"
        "import hashlib; model = load_quantised(sys.argv[1], torch.float32)\n"
        "digest = hashlib.sha256()\n"
        "for name, tensor in sorted(model.state_dict().items()): digest.update(tensor.contiguous().numpy().tobytes())\n"
        "print(digest.hexdigest())"
    )
    found = []

    def run():
        command = [sys.executable, "-c", code, model]
        found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and len(set(found)) == 1 and len(found[0]) == 65
    (folder,) = folders(cache)
    checksums = json.loads((folder / "checksums.json").read_text())
    assert {path.name for path in folder.iterdir()} == {*checksums, "checksums.json"}


def test_a_cache_that_cannot_be_written_costs_only_time(model, cache, caplog):
    cache.parent.write_text("a file where the cache's folder should be")
    assert_same(load_quantised(model, torch.float32), anew(model))
    assert "cannot be kept" in caplog.text


def test_a_damaged_model_is_named_and_nothing_is_kept_of_it(model, cache):
    file = Path(model) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model=.*cannot be loaded"):
        load_quantised(model, torch.float32)
    assert not cache.exists()
