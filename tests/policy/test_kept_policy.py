"""What is kept to speak with: tokenizers and forms of chats of every family, what is not kept, and how much is."""

import json
import os

import pytest
from families.templates import FAMILIES, family_tokenizer
from tiny_model import build_tiny_model
from tokenizers import Tokenizer

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.files import is_whole, seal
from emodistill.policy import kept_policy
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.kept_policy import KeptTokenizer, about_tokenizer, encodes_alike, find

POLICY = {"compute_dtype": "auto", "device": "cpu", "four_bit": True, "lora": {}}
SAMPLER = {"dtype": "auto", "device": "cpu"}
WORDS = [
    "You are the creditor.\n\nYour target: 20 days.",
    "No: 90 days, g\u00fcnstig \U0001f44d <|im_end|> </s>",
    " x ",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_kept_tokenizer_writes_and_reads_chats_as_its_own(name):
    own = ChatFormat(family_tokenizer(name), load_vocabulary())
    about = json.loads(json.dumps(about_tokenizer(own))) | {"name_or_path": name}
    tokenizer = KeptTokenizer(Tokenizer.from_str(own.tokenizer.backend_tokenizer.to_str()), about)
    kept = ChatFormat(tokenizer, load_vocabulary())
    assert encodes_alike(own.tokenizer, tokenizer) and kept.form == own.form
    assert (kept.end_of_turn, kept.opens_message) == (own.end_of_turn, own.opens_message)
    for words in WORDS:
        parts = [
            (chat.system(words), chat.user(words, first=True), chat.user(words), chat.reply(words))
            for chat in (kept, own)
        ]
        assert parts[0] == parts[1]
        assert [kept.text(part) for part in parts[0]] == [own.text(part) for part in parts[0]]


@pytest.fixture
def model(tmp_path):
    return build_tiny_model(tmp_path / "model")


def found(model, **sampler):
    return find(POLICY | {"base_model": model}, None, SAMPLER | sampler, load_vocabulary())


def test_another_file_or_setting_is_another_folder(model, tmp_path):
    folders = [found(model)[0].folder, found(model)[0].folder, found(model, dtype="float32")[0].folder]
    tokenizer = tmp_path / "model" / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    folders.append(found(model)[0].folder)
    weights = tmp_path / "model" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    folders.append(found(model, dtype="float32")[0].folder)
    assert folders[0] == folders[1] and len(set(folders[1:])) == 4


def test_a_later_version_of_the_code_keeps_its_own(model, tmp_path, monkeypatch):
    """It may take the model's chats apart in another way, and what is kept is not asked again."""
    (tmp_path / "code").mkdir()
    monkeypatch.setattr(kept_policy, "CODE", tmp_path / "code", raising=False)
    folders = []
    for version in ("1", "2", "1"):
        (tmp_path / "code" / "chat_template.py").write_text(version, encoding="utf-8")
        folders.append(found(model)[0].folder)
    assert folders[0] == folders[2] != folders[1]


def test_what_is_not_kept(model, tmp_path, monkeypatch):
    assert found(model) is not None
    adapter = find(POLICY | {"base_model": model}, tmp_path / "nowhere", SAMPLER, load_vocabulary())
    monkeypatch.setattr(kept_policy, "LARGEST", 1000)
    large = found(model)
    monkeypatch.undo()
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("LlamaFor", "Gemma2For"), encoding="utf-8")
    assert adapter is None and large is None and found(model) is None


def test_the_folders_that_were_used_last_stay(tmp_path):
    for age in range(7):
        folder = tmp_path / str(age)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        seal(folder)
        os.utime(folder / "checksums.json", (1000 - age, 1000 - age))
    kept_policy._forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    (tmp_path / "2" / "model.safetensors").write_bytes(b"weightz")
    assert [is_whole(tmp_path / name) for name in "0123"] == [True, True, False, True]
