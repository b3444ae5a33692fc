"""A LoRA layer as one function: y = W x + s B A x, computed in the dtype of the base with float32 master weights.

PEFT computes the two products of the adapter in float32 and keeps a dozen tensors a layer for the backward pass. Here
the adapter is rounded to the dtype of the base for the products, as the base's own weights are; the gradients go to the
float32 weights. Of a layer's input and output only the input and A x are kept. W in 4 bits stays packed: it is unpacked
for the forward pass, and once more for the backward pass.

Shapes: N tokens, I inputs, O outputs, r the rank.
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn

from emodistill.language_models.four_bit import bnb
from emodistill.policy.sharding import quant_state_of

UNPACKED_LIMIT = 2**30  # bytes of base weights that are kept unpacked beside their 4 bits: 0.2 GiB for 135M parameters


def fuse_lora_layers(model: Any) -> None:
    """Let every plain LoRA layer of a PEFT model compute as `lora_linear`; other kinds stay as they are.

    On the CPU, 4-bit weights are unpacked once where all of them together take less than `UNPACKED_LIMIT`: to unpack
    them takes a tenth of a training step.

    Args:
        model: a PEFT model.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _is_plain(module)]
    width = model.get_base_model().dtype.itemsize
    bytes_of_all = width * sum(layer.in_features * layer.out_features for layer in layers)
    for layer in layers:
        layer.keeps_unpacked = bytes_of_all <= UNPACKED_LIMIT
        layer.unpacked = None
        layer.peft_forward = layer.forward
        layer.forward = MethodType(_forward, layer)


def unfit_adapter(model: Any) -> str | None:
    """The first LoRA layer that merging, or scoring by the frozen output layer, would leave out; None if no layer is.

    Args:
        model: a PEFT model.
    """
    output = model.get_base_model().get_output_embeddings()
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
    for name, layer in layers:
        on_parameter = isinstance(layer, ParamWrapper)  # of experts: PEFT computes it, and `delta_of` merges it
        if layer is output or not (on_parameter or _is_plain(layer)):
            return str(name)
    return None


def delta_of(module: Any, name: str, adapter: str) -> tuple[Any, Tensor | None]:
    """The module beneath PEFT's `ParamWrapper`s, one for each adapted parameter, and B A x scaling of one parameter.

    Args:
        module: of a PEFT model; it may have no such wrapper.
        name: of the parameter, as the module beneath calls it.
        adapter: whose matrices are taken.

    Returns:
        the module, and what is added to the parameter, of its shape; None where no wrapper adapts it.
    """
    delta = None
    while isinstance(module, ParamWrapper):
        delta = module.get_delta_weight(adapter) if module.parameter_name == name else delta
        module = module.base_layer
    return module, delta


def _is_plain(layer: Any) -> bool:
    base = layer.get_base_layer()
    transposed = getattr(layer, "fan_in_fan_out", False)
    return isinstance(base, nn.Linear) and not (transposed or layer.lora_variant or any(layer.lora_bias.values()))


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    dropout = layer.training and any(not isinstance(layer.lora_dropout[name], nn.Identity) for name in active)
    if layer.merged or len(active) > 1 or dropout or args or kwargs:
        result: Tensor = layer.peft_forward(x, *args, **kwargs)
        return result
    weight, state = base_weight(layer, x.dtype)
    bias = layer.get_base_layer().bias
    bias = None if bias is None else bias.to(x.dtype)
    if layer.disable_adapters or not active:
        return F.linear(x, unpacked(weight, state, x.dtype), bias)
    (name,) = active
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    return lora_linear(x, weight, bias, down, up, layer.scaling[name], state)


def base_weight(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Any]:
    """W of a LoRA layer and None; or its packed weight with what unpacks it, see `unpacked`."""
    linear = layer.get_base_layer()
    weight, state = linear.weight, quant_state_of(linear)
    if state is None:
        return weight.to(dtype), None
    if not layer.keeps_unpacked or weight.device.type != "cpu":
        return weight.data, state
    if layer.unpacked is None or layer.unpacked.dtype != dtype:
        layer.unpacked = unpacked(weight.data, state, dtype)
    return layer.unpacked, None


def unpacked(weight: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """W, (O, I).

    Args:
        weight: W itself, or what holds it in 4 bits.
        state: what unpacks it; None where it is plain.
    """
    if state is None:
        return weight
    plain: Tensor = bnb.functional.dequantize_4bit(weight, state)
    return plain.to(dtype)


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float, state: Any = None
) -> Tensor:
    """W x + s B A x.

    Args:
        x: (..., I).
        weight: W, (O, I), frozen, of the dtype of x; or what holds it in 4 bits.
        bias: (O,), frozen, or None.
        down: A, (r, I) float32.
        up: B, (O, r) float32.
        scaling: s.
        state: what unpacks a weight in 4 bits; None where it is plain.
    """
    result: Tensor = _LoRALinear.apply(x, weight, bias, down, up, scaling, state)  # type: ignore[no-untyped-call]
    return result


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float, state: Any
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, b = down.to(x.dtype), (up * scaling).to(x.dtype)
        low = rows @ a.T
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scaling, ctx.state = scaling, state
        product = F.linear(rows, unpacked(weight, state, x.dtype), bias).addmm_(low, b.T)
        # no view for autograd: some models (Gemma 3n) write into what a layer returns
        return torch.ops.aten._unsafe_view(product, [*x.shape[:-1], product.shape[-1]])  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        outer = grad_outputs[0]
        gradient = outer.reshape(-1, outer.shape[-1])
        of_low = gradient @ b
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_rows = torch.addmm(gradient @ unpacked(weight, ctx.state, rows.dtype), of_low, a)
        of_down, of_up = (of_low.T @ rows).float(), (gradient.T @ low).float() * ctx.scaling
        of_x = None if of_rows is None else of_rows.view(*outer.shape[:-1], -1)
        return of_x, None, None, of_down, of_up, None, None
