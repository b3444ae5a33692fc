"""Ready configurations of base models: they fit the architecture, and their rates follow the rule that the docs state.

Sizes are those of each model's published `config.json`; a model of two layers on the meta device has no weights.
"""

from functools import cache

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from tiny_runs import CONFIGS, composed
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from emodistill.data.chat_datasets import ChatSource

SIZES = {  # kind, width, width of the MLP, heads, key-value heads, the most positions
    "smollm2-135m-instruct": ("llama", 576, 1536, 9, 3, 8192),
    "smollm2-360m-instruct": ("llama", 960, 2560, 15, 5, 8192),
    "smollm2-1.7b-instruct": ("llama", 2048, 8192, 32, 32, 8192),
    "smollm3-3b": ("smollm3", 2048, 11008, 16, 4, 65536),
    "qwen2.5-0.5b-instruct": ("qwen2", 896, 4864, 14, 2, 32768),
    "qwen2.5-7b-instruct": ("qwen2", 3584, 18944, 28, 4, 32768),
    "qwen3-0.6b": ("qwen3", 1024, 3072, 16, 8, 40960),
    "qwen3-1.7b": ("qwen3", 2048, 6144, 16, 8, 40960),
    "qwen3-4b": ("qwen3", 2560, 9728, 32, 8, 40960),
    "llama-3.2-1b-instruct": ("llama", 2048, 8192, 32, 8, 131072),
    "llama-3.2-3b-instruct": ("llama", 3072, 8192, 24, 8, 131072),
    "gemma-3-270m-it": ("gemma3_text", 640, 2048, 4, 1, 32768),
    "gemma-3-1b-it": ("gemma3_text", 1152, 6912, 4, 1, 32768),
    "phi-4-mini-instruct": ("phi3", 3072, 8192, 24, 8, 131072),
    "granite-3.3-2b-instruct": ("granite", 2048, 8192, 32, 8, 131072),
    "lfm2-350m": ("lfm2", 1024, 6656, 16, 8, 128000),
    "mistral-7b-instruct-v0.3": ("mistral", 4096, 14336, 32, 8, 32768),
}
EXTRA = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 256},
    "qwen3": {"head_dim": 128},
    "phi3": {"pad_token_id": 0},
}


def model_on_meta(name):
    kind, width, mlp, heads, groups, positions = SIZES[name]
    config = CONFIG_MAPPING[kind](
        hidden_size=width,
        intermediate_size=mlp,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=positions,
        num_hidden_layers=2,
        **EXTRA.get(kind, {}),
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@cache
def training(name):
    return composed("train", "stage=jpo", f"model={name}", "size=full")


def test_every_ready_configuration_is_tested_here():
    assert {path.stem for path in (CONFIGS / "model").glob("[!_]*.yaml")} == SIZES.keys() | {"embedded"}


@pytest.mark.parametrize("name", SIZES)
def test_its_adapters_are_on_every_projection_of_its_layers(name):
    model, lora = model_on_meta(name), OmegaConf.to_container(training(name).learner.policy.lora, resolve=True)
    linear = [path for path, module in model.named_modules() if type(module) is torch.nn.Linear]
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora)).named_modules()
    found = [path.removeprefix("base_model.model.") for path, module in adapted if hasattr(module, "lora_A")]
    assert sorted(found) == sorted(set(linear) - {"lm_head"})
    assert {path.rsplit(".", 1)[1] for path in found} == set(lora["target_modules"])


@pytest.mark.parametrize("name", SIZES)
def test_its_rates_follow_from_its_width_and_its_chats_fit_its_positions(name):
    _, width, *_, positions = SIZES[name]
    own = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert own["sft_learning_rate"] == float(f"{5e-4 * (2000 / width) ** 0.781:.0e}")
    assert own["jpo_learning_rate"] == pytest.approx(own["sft_learning_rate"] / 5)
    assert own["context"] <= positions
    assert training(name).learner.optimizer.learning_rate == own["jpo_learning_rate"]
    assert training(name).data.dataset.source.context == own["context"]


def test_a_model_without_a_configuration_of_its_own_keeps_the_settings_of_the_demo():
    sft, jpo = (composed("train", f"stage={stage}", "model.base_model=some/model") for stage in ("sft", "jpo"))
    assert (sft.learner.optimizer.learning_rate, jpo.learner.optimizer.learning_rate) == (1e-3, 2e-4)
    assert sft.learner.policy.lora.target_modules == "all-linear"
    assert sft.data.dataset.source.context is None


def test_a_training_chat_is_never_longer_than_the_model_takes():
    assert ChatSource("some/model", "goemotions28", 4096, context=2048).max_tokens == 2048
    assert ChatSource("some/model", "goemotions28", 768, context=2048).max_tokens == 768
    assert ChatSource("some/model", "goemotions28", 768).max_tokens == 768
