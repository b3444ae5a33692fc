"""A LoRA layer as one function: against float64 and PEFT; with two adapters, with none; where PEFT's own stays."""

import copy

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tiny_model import random_ids, random_llama

from emodistill.policy.lora_linear import fuse_lora_layers, lora_linear


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_output_and_every_gradient_against_float64(dtype, bound, with_bias):
    torch.manual_seed(0)
    x, outer = torch.randn(3, 40, 96).to(dtype), torch.randn(3, 40, 64).to(dtype)
    weight, bias = torch.randn(64, 96).to(dtype) / 10, torch.randn(64).to(dtype) if with_bias else None
    down, up = torch.randn(4, 96) / 10, torch.randn(64, 4) / 10
    learnt = [tensor.clone().requires_grad_() for tensor in (x, down, up)]
    ours = lora_linear(learnt[0], weight, bias, learnt[1], learnt[2], 2.0)
    ours.backward(outer)
    exact = [tensor.double().requires_grad_() for tensor in (x, down, up)]
    wanted = exact[0] @ weight.double().T + 2.0 * exact[0] @ exact[1].T @ exact[2].T
    wanted = wanted if bias is None else wanted + bias.double()
    wanted.backward(outer.double())
    assert [one.grad.dtype for one in learnt] == [dtype, torch.float32, torch.float32]
    for found, expected in zip([ours, *(one.grad for one in learnt)], [wanted, *(e.grad for e in exact)], strict=True):
        assert (found.double() - expected).norm() / expected.norm() < bound


def test_a_weight_in_4_bits_is_unpacked_again_and_not_kept():
    torch.manual_seed(0)
    x, outer, down, up = torch.randn(40, 128), torch.randn(40, 64), torch.randn(4, 128), torch.randn(64, 4)
    packed, state = bnb.functional.quantize_4bit(torch.randn(64, 128), quant_type="nf4")
    kept = []

    def gradients(weight, state):
        learnt = [tensor.clone().requires_grad_() for tensor in (x, down, up)]
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
            found = lora_linear(learnt[0], weight, None, learnt[1], learnt[2], 2.0, state)
        found.backward(outer)
        return [found, *(one.grad for one in learnt)]

    plain = gradients(bnb.functional.dequantize_4bit(packed, state), None)
    assert any(one.shape == (64, 128) for one in kept)
    assert all(torch.equal(*pair) for pair in zip(gradients(packed, state), plain, strict=True))
    assert not any(one.shape == (64, 128) for one in kept)


def test_weights_are_kept_unpacked_by_their_size_in_bytes(monkeypatch):
    layers = [module for module in adapted().modules() if isinstance(module, LoraLayer)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    monkeypatch.setattr("emodistill.policy.lora_linear.UNPACKED_LIMIT", 3 * weights)
    for dtype, keeps in ((torch.float32, False), (torch.bfloat16, True)):
        model = adapted().to(dtype)
        fuse_lora_layers(model)
        assert {module.keeps_unpacked for module in model.modules() if hasattr(module, "keeps_unpacked")} == {keeps}


def adapted(**changes):
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False} | changes
    return get_peft_model(random_llama(), LoraConfig(task_type="CAUSAL_LM", **settings), adapter_name="policy")


def logits(model):
    return model(input_ids=torch.tensor([random_ids(12, 0)])).logits


def gradients(model):
    model.zero_grad()
    logits(model).square().sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_a_model_computes_as_with_peft():
    theirs = adapted()
    ours = copy.deepcopy(theirs)
    fuse_lora_layers(ours)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    expected, found = gradients(theirs), gradients(ours)
    assert found.keys() == expected.keys() and len(found) == 28
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-4)


def test_two_adapters_none_and_a_merged_one():
    model = adapted()
    model.add_adapter("reference", model.peft_config["policy"])
    theirs = copy.deepcopy(model)
    fuse_lora_layers(model)

    def everything(model):
        with torch.no_grad():
            found = [logits(model)]
            model.set_adapter("reference")
            found.append(logits(model))
            model.set_adapter("policy")
            with model.disable_adapter():
                found.append(logits(model))
            model.merge_adapter()
            found.append(logits(model))
            model.unmerge_adapter()
        return found

    found = everything(model)
    for ours, expected in zip(found, everything(theirs), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    policy, reference, base, _ = found
    assert min((policy - reference).abs().max(), (policy - base).abs().max()) > 1e-2


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_dropout": 0.5}])
def test_other_kinds_are_pefts_own(changes):
    theirs = adapted(**changes)
    ours = copy.deepcopy(theirs)
    fuse_lora_layers(ours)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        found.append(logits(model))
    assert torch.equal(*found)
