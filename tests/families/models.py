"""Tiny models of the families that people use, each made from the library's own configuration class, random weights.

Every setting that makes a family a family is on, at a size of a few thousand weights: windows shorter than the chats of
the tests, factors that are not 1, caps that bind, layers without rotation.
"""

from pathlib import Path
from typing import Any

import torch
from families.templates import family_tokenizer
from tiny_model import build_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.cohere import CohereConfig
from transformers.models.cohere2 import Cohere2Config
from transformers.models.deepseek_v3 import DeepseekV3Config
from transformers.models.falcon_h1 import FalconH1Config
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gemma3n import Gemma3nTextConfig
from transformers.models.gpt_oss import GptOssConfig
from transformers.models.granite import GraniteConfig
from transformers.models.granitemoehybrid import GraniteMoeHybridConfig
from transformers.models.lfm2 import Lfm2Config
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.olmo3 import Olmo3Config
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config
from transformers.models.qwen3_next import Qwen3NextConfig
from transformers.models.smollm3 import SmolLM3Config

VOCABULARY = 448  # of `tiny_model.build_tokenizer`
WINDOW = 12  # tokens; chats of the tests are longer
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
COMMON = SIZES | HEADS | {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2, "max_position_embeddings": 2048}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + 0.1 * i for i in range(6)],
    "long_factor": [2.0 + 0.1 * i for i in range(6)],
    "original_max_position_embeddings": 1024,
}

FAMILIES = {
    "smollm2": lambda: LlamaConfig(**COMMON, tie_word_embeddings=True),
    "smollm3": lambda: SmolLM3Config(**COMMON, no_rope_layers=[1, 0], tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**COMMON, tie_word_embeddings=True),  # biases on queries, keys and values
    "qwen3": lambda: Qwen3Config(**COMMON, head_dim=32, tie_word_embeddings=True),
    "llama3": lambda: LlamaConfig(**(COMMON | {"eos_token_id": [2, 5]}), rope_parameters=LLAMA3),
    "gemma2": lambda: Gemma2Config(
        **COMMON,
        **ALTERNATING,
        head_dim=16,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(**COMMON, **ALTERNATING, head_dim=16, query_pre_attn_scalar=16),
    "phi3": lambda: Phi3Config(
        **COMMON, rope_parameters=LONGROPE, original_max_position_embeddings=1024, sliding_window=WINDOW
    ),
    "granite": lambda: GraniteConfig(
        **COMMON,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=0.1,
        logits_scaling=0.5,
        tie_word_embeddings=True,
    ),
    "lfm2": lambda: Lfm2Config(
        **COMMON, layer_types=["conv", "full_attention"], block_multiple_of=32, tie_word_embeddings=True
    ),
    "mistral": lambda: MistralConfig(**COMMON, head_dim=32, sliding_window=None, tie_word_embeddings=False),
    "cohere": lambda: CohereConfig(**COMMON, logit_scale=0.25, use_qk_norm=False),
}
OTHERS = {  # of which only log-probabilities, packed replies and speaking are looked at
    "mistral_window": lambda: MistralConfig(**COMMON, head_dim=32, sliding_window=WINDOW),
    "olmo3": lambda: Olmo3Config(**COMMON, **ALTERNATING),
    "cohere2": lambda: Cohere2Config(**COMMON, **ALTERNATING, logit_scale=0.25),
    "gpt_oss": lambda: GptOssConfig(**COMMON, **ALTERNATING, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
    "deepseek_v3": lambda: DeepseekV3Config(
        **(COMMON | {"num_key_value_heads": 4}),
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=24,
    ),
    "gemma3n": lambda: Gemma3nTextConfig(
        **(COMMON | {"num_hidden_layers": 4, "intermediate_size": 128}),
        head_dim=16,
        num_kv_shared_layers=1,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCABULARY,
        laurel_rank=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=WINDOW,
        activation_sparsity_pattern=[0.0] * 4,
    ),
    "falcon_h1": lambda: FalconH1Config(
        **COMMON,
        mamba_d_ssm=64,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=16,
        mamba_n_groups=1,
        lm_head_multiplier=0.5,
    ),
    "qwen3_next": lambda: Qwen3NextConfig(
        **COMMON,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    ),
    "granite_hybrid": lambda: GraniteMoeHybridConfig(
        **COMMON,
        layer_types=["mamba", "attention"],
        num_local_experts=0,
        shared_intermediate_size=64,
        mamba_n_heads=4,
        mamba_d_head=32,
        mamba_d_state=16,
        mamba_n_groups=1,
        logits_scaling=2.0,
        embedding_multiplier=3.0,
    ),
}


TEMPLATES = {  # whose templates and tokenizers the families have; for the others the tests' own stands in
    "smollm2": "smollm2",
    "smollm3": "smollm3",
    "qwen2": "qwen2.5",
    "qwen3": "qwen3",
    "llama3": "llama3.2",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "phi3": "phi4-mini",
    "granite": "granite3.3",
    "lfm2": "lfm2",
    "mistral": "mistral-v0.3",
}


def random_model(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model whose weights are so large that logits differ and depend on the whole chat; no bias is 0, no norm 1.

    Gemma's embeddings are multiplied by the root of their width, 8, and Granite's by its factor: they are smaller here,
    or else a token would be followed by itself.

    Args:
        changes: of the configuration.
    """
    config = (FAMILIES | OTHERS)[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for place, weight in model.named_parameters():
            if place.endswith("bias") or "norm" in place:
                weight.add_(torch.randn_like(weight) * 0.2)
            if place.endswith("proj.weight") or place.endswith(("w1.weight", "w2.weight", "w3.weight")):
                weight.mul_(6)
            if place.endswith("conv.weight"):
                weight.copy_(torch.randn_like(weight) * 0.5)
            if place.endswith(("embed_tokens.weight", "lm_head.weight")):
                factor = getattr(config, "embedding_multiplier", 1.0) if "embed" in place else 1.0
                weight.mul_(10 / (8.0 if name.startswith("gemma") else factor))
    return model


def save_model(name: str, folder: Path) -> str:
    """Save such a model with a tokenizer and a chat template of its family; returns the folder's name."""
    tokenizer = family_tokenizer(TEMPLATES[name]) if name in TEMPLATES else build_tokenizer()
    tokenizer.save_pretrained(folder)
    size = -(-len(tokenizer) // 64) * 64  # NF4 has blocks of 64
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    changes = {"vocab_size": size, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": pad}
    random_model(name, **changes).save_pretrained(folder)
    return str(folder)
