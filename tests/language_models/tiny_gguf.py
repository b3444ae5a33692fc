"""The tiny model as one GGUF file."""

import json

import gguf
from tiny_model import CHATML, build_tokenizer, random_llama

from emodistill.language_models.embedded import LAYER_NAMES, TOP_NAMES


def write_gguf(path, quantisation, pre="smollm"):
    """A small Llama as llama.cpp stores it: rows of the query and key projections in pairs."""
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    model = random_llama(max_position_embeddings=512, rope_parameters=rope, tie_word_embeddings=False)
    config, weights, writer = model.config, model.state_dict(), gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    write_tokenizer(writer, config.vocab_size, pre)
    names = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in TOP_NAMES.items()}
    for i in range(config.num_hidden_layers):
        names |= {f"blk.{i}.{theirs}.weight": f"model.layers.{i}.{ours}.weight" for theirs, ours in LAYER_NAMES.items()}
    heads_of = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for theirs, ours in names.items():
        weight = weights[ours]
        if heads := heads_of.get(theirs.split(".")[-2]):
            weight = weight.view(heads, 2, -1, config.hidden_size).transpose(1, 2).reshape(weight.shape)
        kind = quantisation if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(theirs, gguf.quantize(weight.contiguous().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tokenizer(writer, vocab_size, pre):
    tokenizer = build_tokenizer()
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words += [f"<unused{i}>" for i in range(len(words), vocab_size)]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3 if i in special else 1 for i in range(vocab_size)])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)
