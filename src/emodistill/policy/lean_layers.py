"""RMSNorm and the gated MLP of Llama-like models as one function each, which keep less for the backward pass.

Both spend their time on moving numbers, not on arithmetic. Step by step, a norm keeps three copies of its input, two of
them in float32, and a gated MLP four of its wide activations; here it is one, and three. Training a small model then
takes about half the memory.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm


def use_lean_layers(model: nn.Module) -> None:
    """Let the layers of a transformers model that compute as Llama's do so in one function; others stay as they are."""
    for module in model.modules():
        if _runs(module, LlamaRMSNorm.forward):
            module.forward = MethodType(_normed, module)
        elif _runs(module, LlamaMLP.forward) and isinstance(module.act_fn, nn.SiLU | SiLUActivation):
            module.forward = MethodType(_gated, module)


def _runs(module: nn.Module, forward: Callable[..., Any]) -> bool:
    """Whether a module's forward is this one, word for word: the library copies it from model to model."""
    own, wanted = (getattr(function, "__code__", None) for function in (type(module).forward, forward))
    return own is not None and all(getattr(own, part) == getattr(wanted, part) for part in ("co_code", "co_names"))


def _normed(module: Any, x: Tensor) -> Tensor:
    if module.weight.requires_grad:
        learnt: Tensor = type(module).forward(module, x)
        return learnt
    result: Tensor = _Norm.apply(x, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return result


def _gated(module: Any, x: Tensor) -> Tensor:
    product = _Gated.apply(module.gate_proj(x), module.up_proj(x))  # type: ignore[no-untyped-call]
    result: Tensor = module.down_proj(product)
    return result


class _Norm(torch.autograd.Function):
    """w x / rms(x), the root mean square in float32; w is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = x.float()
        scale = exact.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return weight * (exact * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        outer, exact = (grad_outputs[0] * weight).float(), x.float()
        along = (outer * exact).mean(-1, keepdim=True).mul_(scale).mul_(scale)
        return torch.addcmul(outer, exact, along, value=-1.0).mul_(scale).to(x.dtype), None, None


class _Gated(torch.autograd.Function):
    """silu(a) b."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        outer = grad_outputs[0]
        return torch.ops.aten.silu_backward(outer * up, gate), F.silu(gate).mul_(outer)
