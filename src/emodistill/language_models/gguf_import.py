"""A Llama-family GGUF file as a Hugging Face folder: config.json, model.safetensors, tokenizer files.

transformers can read GGUF too, but takes half a minute where the `gguf` package's own dequantiser takes seconds, and in
version 5.23 it cannot save what it read. Two things need care and are what the tests compare with transformers:
llama.cpp interleaves the rows of the query and key projections, and its pre-tokeniser `smollm` splits digits one by
one before the byte-level rule, without which every number is tokenised in a way the model never saw.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKEN_TYPE = 3  # gguf.TokenType.CONTROL
CONFIG_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "vocab_size": "vocab_size",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def import_gguf(path: Path, folder: Path) -> None:
    """Write the model in `path` to `folder` (which exists), weights in bfloat16.

    Raises:
        ValueError: if the file is not a Llama with a `smollm` tokeniser, which is all that is understood here.
    """
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if name[:10] != "tokenizer."}
    kind = (fields["general.architecture"], reader.fields["tokenizer.ggml.pre"].contents())
    if kind != ("llama", "smollm"):
        raise ValueError(f"{path}: {kind[0]} with tokeniser {kind[1]}, not a llama with tokeniser smollm")
    tensors = _tensors(reader, fields)
    config = _config(fields, tied="lm_head.weight" not in tensors)
    tokenizer = _tokenizer(reader, config["max_position_embeddings"])
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config[key] = getattr(tokenizer, key)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors 0.8 makes it private


def _config(fields: dict[str, Any], tied: bool) -> dict[str, Any]:
    config: dict[str, Any] = {name: fields[f"llama.{key}"] for name, key in CONFIG_KEYS.items()}
    return config | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
    }


def _tensors(reader: Any, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        *layer, name, _ = tensor.name.split(".")
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name in heads:
            weight = _deinterleave(weight, heads[name])
        key = f"model.layers.{layer[1]}.{LAYER_NAMES[name]}" if layer else TOP_NAMES[name]
        tensors[f"{key}.weight"] = torch.from_numpy(np.ascontiguousarray(weight)).to(torch.bfloat16)
    return tensors


def _deinterleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a projection from llama.cpp's order (pairs of the rotation side by side) to halves one after another."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(reader: Any, context: int) -> PreTrainedTokenizerFast:
    field = {name.removeprefix("tokenizer."): value for name, value in reader.fields.items()}
    words: list[str] = field["ggml.tokens"].contents()
    merges = [tuple(pair.split(" ")) for pair in field["ggml.merges"].contents()]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = field["ggml.token_type"].contents()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == SPECIAL_TOKEN_TYPE]
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    named = {key: words[field[f"ggml.{key}_token_id"].contents()] for key in ("bos", "eos", "unknown", "padding")}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=named["bos"],
        eos_token=named["eos"],
        unk_token=named["unknown"],
        pad_token=named["padding"],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=field["chat_template"].contents(),
    )
