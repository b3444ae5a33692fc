"""Linear layers for models that are only read: packed ones for speed on the CPU, widened ones for memory.

A packed weight is kept in the blocked layout that oneDNN multiplies with.

A plain weight is brought into that layout anew by every product. That costs as much as reading it once more: with few
rows, as when a model speaks, half of the time. A packed weight replaces the plain one, so memory does not grow, except
for an output layer whose weight is the embedding's too.

A widened weight stays in the 16 bits of the model's file and becomes float32 for each product. The products are those
of a model in float32, in half of its memory; with a thousand rows they take a sixth longer than packed ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer with a packed weight: (..., I) -> (..., O). It has no gradient.

    Attributes:
        weight: the plain weight, (O, I). It is empty while the layer is packed, unless another module has it too.
        bias: (O), or None.
    """

    def __init__(self, plain: nn.Linear, shared: bool) -> None:
        super().__init__()
        self.shape, self.shared = plain.weight.shape, shared
        self.weight, self.bias = plain.weight, plain.bias
        self.pack()

    def pack(self) -> None:
        """Pack what `weight` holds."""
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(self.weight.data, None)
        if not self.shared:
            self.weight.data = self.weight.data.new_empty(0)

    def unpack(self) -> None:
        """Give `weight` its shape back, without its values."""
        if not self.shared:
            self.weight.data = self.weight.data.new_empty(self.shape)

    def forward(self, inputs: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.packed, self.bias, "none", [], "")
        return product


def pack_linears(model: Any) -> None:
    """Pack the linear layers of a model that is only read from now on, where that is of use; else leave it as it is."""
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch 2.13
        return
    dtype = next(model.parameters()).dtype
    if dtype != torch.float32 and not (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return
    embedding = model.get_input_embeddings().weight
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child.requires_grad_(False), child.weight is embedding))


@contextmanager
def plain_weights(model: nn.Module) -> Iterator[None]:
    """All weights plain in this context, for writing every one of them: packed ones do not keep their values."""
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    for module in packed:
        module.unpack()
    yield
    for module in packed:
        module.pack()


class WidenedLinear(nn.Module):
    """A linear layer that computes in float32 and keeps its weight in another dtype: (..., I) -> (..., O)."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.kept = plain.weight.data  # no parameter: `float()` and its like pass it by
        self.bias = plain.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.kept.float(), self.bias)


def widen_linears(model: Any) -> None:
    """Make a model compute in float32 while its linear layers keep their weights as they are, (O, I)."""
    embedding = model.get_input_embeddings().weight
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and child.weight is not embedding and child.weight.dtype != torch.float32:
                setattr(module, name, WidenedLinear(child))
    model.float()
