"""A merged model as one GGUF file, which llama.cpp and Ollama read.

Written for Llamas whose tokenizer splits digits one by one before the byte-level rule, which llama.cpp calls `smollm`:
the kind that `language_models.embedded` reads, and is tested against transformers with. The same two things need care:
llama.cpp interleaves the rows of the query and key projections, and the name of the pre-tokenizer decides how numbers
are cut. Other models are exported as safetensors, which Ollama imports itself.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from emodistill.language_models.embedded import CONFIG_KEYS, LAYER_NAMES, PRE_TOKENIZER, TOP_NAMES
from emodistill.policy.chat_template import control_tokens

KINDS = {torch.float16: gguf.GGMLQuantizationType.F16, torch.bfloat16: gguf.GGMLQuantizationType.BF16}
FILE_TYPES = {torch.float16: gguf.LlamaFileType.MOSTLY_F16, torch.bfloat16: gguf.LlamaFileType.MOSTLY_BF16}
_NEEDED = ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")


def can_be_gguf(model: Any, tokenizer: Any) -> bool:
    """Whether this file knows how to write such a model."""
    config = model.config
    rope = config.rope_parameters or {} if config.model_type == "llama" else {}
    plain = rope.get("rope_type") == "default" and not (config.attention_bias or config.mlp_bias)
    known = all(getattr(tokenizer, key, None) is not None for key in _NEEDED)
    heads = config.num_attention_heads
    return plain and known and _splits_digits(tokenizer) and config.head_dim * heads == config.hidden_size


def _splits_digits(tokenizer: Any) -> bool:
    """Whether it cuts words as llama.cpp's `smollm` does."""
    about = json.loads(tokenizer.backend_tokenizer.to_str())
    before = about.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [])
    if about["model"]["type"] != "BPE" or [part["type"] for part in parts] != ["Digits", "ByteLevel"]:
        return False
    digits, level = parts
    return bool(digits["individual_digits"] and level.get("use_regex", True) and not level["add_prefix_space"])


def write_gguf(model: Any, tokenizer: Any, path: Path, name: str, dtype: torch.dtype) -> None:
    """Write a float32 model and its tokenizer, weights in `dtype`, norms in float32.

    Args:
        name: of the model, for people.
        dtype: float16 or bfloat16.
    """
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[dtype])
    for ours, theirs in CONFIG_KEYS.items():
        value = getattr(config, ours)
        key = f"llama.{theirs}"
        writer.add_float32(key, value) if isinstance(value, float) else writer.add_uint32(key, value)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    _write_tokenizer(writer, tokenizer, config.vocab_size)
    for key, tensor in _named(model).items():
        kind = KINDS[dtype] if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(key, gguf.quantize(tensor.contiguous().float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(model: Any) -> dict[str, Tensor]:
    """The weights under llama.cpp's names and in its order of rows."""
    config, weights = model.config, model.state_dict()
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    names = {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in TOP_NAMES.items()}
    for i in range(config.num_hidden_layers):
        names |= {f"model.layers.{i}.{ours}.weight": f"blk.{i}.{theirs}.weight" for theirs, ours in LAYER_NAMES.items()}
    found = {}
    for key, weight in weights.items():
        kind = names[key].split(".")[-2]
        found[names[key]] = interleave(weight, heads[kind]) if kind in heads else weight
    return found


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection from halves one after another to pairs of the rotation side by side, (O, I) -> (O, I)."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _write_tokenizer(writer: Any, tokenizer: Any, size: int) -> None:
    about = json.loads(tokenizer.backend_tokenizer.to_str())
    words = [tokenizer.convert_ids_to_tokens(i) or f"<unused{i}>" for i in range(size)]
    control = {tokenizer.convert_tokens_to_ids(mark) for mark in control_tokens(tokenizer)}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in about["model"]["merges"]]
    kinds = [gguf.TokenType.CONTROL if i in control else gguf.TokenType.NORMAL for i in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)  # the template writes what opens a chat
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)


def same_tensors(path: Path, model: Any, dtype: torch.dtype) -> bool:
    """Whether a file holds the weights of a model rounded to `dtype`, bit for bit."""
    expected = _named(model)
    found = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors}
    return found.keys() == expected.keys() and all(
        np.array_equal(found[key], (tensor.to(dtype) if tensor.ndim == 2 else tensor).float().numpy())
        for key, tensor in expected.items()
    )
