"""Our own forward pass and packed weights give what the library's forward pass over plain weights gives."""

import copy
import json

import pytest
import torch
from tiny_model import random_ids, random_llama
from torch import nn
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from emodistill.language_models.packed_linear import PackedLinear, pack_linears, plain_weights
from emodistill.policy.bare_model import BareModel, taken_apart
from emodistill.policy.generation import Layout, RowCache
from emodistill.policy.kept_policy import speaks_alike
from emodistill.policy.row_forward import RowForward

SIZES = {"vocab_size": 448, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FACTORS = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.1,
    "logits_scaling": 4.0,
}
MODELS = {
    "llama": lambda: random_llama(tie_word_embeddings=True),
    "llama with long contexts": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, rope_parameters=LLAMA3)),
    "llama with biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, attention_bias=True, mlp_bias=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS, tie_word_embeddings=False)),
    "qwen2, one head each": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **HEADS, head_dim=32, tie_word_embeddings=True)),
    "smollm3, a layer without rotation": lambda: SmolLM3ForCausalLM(
        SmolLM3Config(**SIZES, **HEADS, no_rope_layers=[1, 0], pad_token_id=0)
    ),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, **HEADS, **FACTORS)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, **HEADS, head_dim=32, sliding_window=None)),
}


@pytest.fixture(params=MODELS)
def model(request):
    """With weights so large that logits differ and depend on the whole chat, and biases that are not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = MODELS[request.param]().eval().requires_grad_(False)
        for name, weight in made.named_parameters():
            if name.endswith("bias") or "layernorm" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
            weight.mul_(8 if "_proj.weight" in name else 12 if name == "model.norm.weight" else 1)
    return made


def rounds(model):
    """Logits of three rows over a first pass of different lengths, one with an idle row, and four of one token each.

    Yields:
        (logits, the chats so far), once a pass.
    """
    forward, layout = RowForward(model), Layout.of(model)
    cache = RowCache(layout, 3, 63, torch.zeros(layout.numbers(3, 64), dtype=layout.like.dtype))
    chats = [[], [], []]
    passes = [[random_ids(n, n) for n in (9, 17, 1)], [random_ids(5, 0), random_ids(3, 1), []]]
    passes += [[random_ids(1, 10 * i + row) for row in range(3)] for i in range(4)]
    for new in passes:
        logits = forward(cache.data, [len(chat) for chat in chats], new)
        chats = [chat + more for chat, more in zip(chats, new, strict=True)]
        yield [logits[row] if more else None for row, more in enumerate(new)], chats


@torch.inference_mode()
def errors(model, reference):
    """Largest difference of log-probabilities to a reference model, and whether the likeliest token is the same."""
    worst, agree = 0.0, []
    for logits, chats in rounds(model):
        for ours, chat in zip(logits, chats, strict=True):
            if ours is not None:
                theirs = reference(torch.tensor([chat]), use_cache=False).logits[0, -1].double()
                worst = max(worst, float((ours.double().log_softmax(-1) - theirs.log_softmax(-1)).abs().max()))
                agree.append(int(ours.argmax()) == int(theirs.argmax()))
    return worst, all(agree)


@pytest.mark.parametrize("packed", [False, True])
def test_log_probabilities_are_those_of_the_library(model, packed):
    assert RowForward.serves(model)
    reference = copy.deepcopy(model).double()
    if packed:
        pack_linears(model)
    worst, agree = errors(model, reference)
    assert worst < 2e-4 and agree


@pytest.mark.parametrize("packed", [False, True])
def test_in_bfloat16_the_error_is_that_of_the_librarys_own_pass(model, packed):
    """Against float64: what rounding costs here is no more than twice what it costs the library."""
    model = model.to(torch.bfloat16)
    reference, plain = copy.deepcopy(model).double(), copy.deepcopy(model)
    with torch.inference_mode():
        chats = [chat for _, all_of_them in rounds(model) for chat in all_of_them]
        both = [
            [m(torch.tensor([c]), use_cache=False).logits[0, -1].double() for m in (plain, reference)] for c in chats
        ]
    theirs = max(float((a.log_softmax(-1) - b.log_softmax(-1)).abs().max()) for a, b in both)
    if packed:
        pack_linears(model)
    assert errors(model, reference)[0] < 2 * theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_put_together_without_its_library_a_model_gives_the_same_logits(model, dtype):
    model = model.to(dtype)
    tensors, about = taken_apart(model)
    bare = BareModel(tensors, json.loads(json.dumps(about)), "bare")
    assert speaks_alike(model, bare)
    for one in (model, bare):
        pack_linears(one)
    packed = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # else packing brings nothing
    assert isinstance(bare.lm_head, PackedLinear) == packed
    with torch.inference_mode():
        for (ours, _), (theirs, _) in zip(rounds(bare), rounds(model), strict=True):
            assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True) if pair[0] is not None)
    other = {name: tensor * 1.01 if name == "model.norm.weight" else tensor for name, tensor in tensors.items()}
    assert not speaks_alike(BareModel(tensors, about, "bare"), BareModel(other, about, "bare"))


def test_other_models_are_left_to_the_library(model):
    assert RowForward.serves(model)
    for name, value in (("hidden_act", "gelu"), ("layer_types", ["full_attention", "sliding_attention"])):
        other = copy.copy(model)
        other.config = copy.deepcopy(model.config)
        setattr(other.config, name, value)
        assert not RowForward.serves(other)
    model.model.layers[1].mlp.up_proj = nn.Sequential(model.model.layers[1].mlp.up_proj)
    model.model.layers[1].self_attn.q_proj = type("Quantised", (nn.Linear,), {})(64, 64)
    assert not RowForward.serves(model)


def test_packed_weights_take_the_place_of_plain_ones():
    model = random_llama(tie_word_embeddings=True).eval()
    ids = torch.tensor([random_ids(20, 0)])
    before, held = model(ids).logits.detach(), sum(p.numel() for p in model.parameters())
    pack_linears(model)
    torch.testing.assert_close(model(ids).logits, before)
    left = sum(p.numel() for p in model.parameters())
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert left == model.get_input_embeddings().weight.numel() + norms < held
    assert isinstance(model.lm_head, PackedLinear)


def test_weights_written_anew_are_those_that_count():
    model, other = (random_llama(seed, tie_word_embeddings=True).eval() for seed in (0, 1))
    pack_linears(model)
    with plain_weights(model), torch.no_grad():
        assert [p.shape for p in model.parameters()] == [p.shape for p in other.parameters()]
        for parameter, value in zip(model.parameters(), other.parameters(), strict=True):
            parameter.copy_(value)
    ids = torch.tensor([random_ids(20, 0)])
    torch.testing.assert_close(model(ids).logits, other(ids).logits)
    assert model.model.layers[0].mlp.up_proj.weight.numel() == 0


def test_a_dtype_without_packed_products_stays_plain():
    model = random_llama().double()
    pack_linears(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
