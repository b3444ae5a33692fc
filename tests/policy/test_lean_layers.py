"""RMSNorm and gated MLP in one function each: the library's results, float64's gradients, and less that is kept."""

import copy

import pytest
import torch
from tiny_model import random_llama
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from emodistill.policy.lean_layers import use_lean_layers


def frozen(dtype):
    model = random_llama().requires_grad_(False).to(dtype)
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.3)
    return model


def gradient(module, x, outer):
    x = x.clone().requires_grad_()
    result = module(x)
    result.backward(outer)
    return result.detach(), x.grad


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("part", ["input_layernorm", "mlp"])
def test_output_and_gradient_against_float64(part, dtype, bound):
    layer = frozen(dtype).model.layers[0]
    exact = copy.deepcopy(getattr(layer, part)).double()
    if part == "input_layernorm":
        exact.forward = lambda x: exact.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    library = copy.deepcopy(getattr(layer, part))
    use_lean_layers(layer)
    torch.manual_seed(0)
    x, outer = (3.0 * torch.randn(2, 9, 64)).to(dtype), torch.randn(2, 9, 64).to(dtype)
    ours, wanted = gradient(getattr(layer, part), x, outer), gradient(exact, x.double(), outer.double())
    assert torch.equal(ours[0], library(x))
    for found, expected in zip(ours, wanted, strict=True):
        assert found.dtype == dtype and (found.double() - expected).norm() / expected.norm() < bound


class Kept:
    """Bytes of activations that autograd keeps for the backward pass, each tensor once."""

    def __enter__(self):
        self.seen = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def note(self, tensor):
        if tensor.dim() == 3:  # weights are not counted
            self.seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def __exit__(self, *error):
        self.hooks.__exit__(*error)
        self.bytes = sum(tensor.untyped_storage().nbytes() for tensor in self.seen.values())


def test_a_layer_keeps_less():
    """Per token: the norm 64 numbers and one of float32, the MLP two of its three times 128 numbers."""
    layer, kept = frozen(torch.bfloat16).model.layers[0], []
    for lean in (False, True):
        if lean:
            use_lean_layers(layer)
        x = torch.randn(1, 50, 64).bfloat16().requires_grad_()
        with Kept() as found:
            layer.mlp(layer.post_attention_layernorm(x))
        kept.append(found.bytes)
    assert kept[1] == 50 * (2 * 64 + 4 + 2 * 2 * 128) < 0.7 * kept[0]


def test_norms_that_learn_and_layers_of_another_kind_stay_as_they_are():
    model = random_llama()
    model.model.layers[0].mlp.act_fn = nn.GELU()
    x = torch.randn(1, 3, 64)
    expected = [model.model.norm(x), model.model.layers[0].mlp(x)]
    use_lean_layers(model)
    assert torch.equal(model.model.norm(x), expected[0]) and torch.equal(model.model.layers[0].mlp(x), expected[1])
    model.model.norm(x).sum().backward()
    assert model.model.norm.weight.grad.norm() > 0
