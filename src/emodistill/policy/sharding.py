"""A language model spread over several devices, for bases that do not fit on one: PyTorch's FSDP2.

Each device keeps an equal part of every weight. A layer's weights are gathered when it computes, in the forward pass
and once more in the backward pass, and given back after it. What lies outside of the layers (embedding, output layer)
is gathered for the whole of a pass. Gradients of the adapters are averaged over the devices.

Weights in NF4 are bytes, and FSDP2 makes a parameter of every part, which has to be of a float type. So their bytes are
read as bfloat16 numbers while they travel (`bnb_4bit_quant_storage` of transformers does the same): no arithmetic is
ever done on these, and a layer unpacks them with the scales that it keeps. The scales stay whole on every device, at
0.13 bits a weight.

Source:
    https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from typing import Any

import torch
from torch import Tensor, nn

from emodistill.errors import UserError

STORAGE = torch.bfloat16  # as which the bytes of NF4 travel


def shard(root: nn.Module, base: Any, mesh: Any) -> None:
    """Spread all weights of `root` over the devices of a mesh, layer by layer.

    Args:
        root: what is called; the model is a part of it.
        base: a causal language model of transformers.
        mesh: a `torch.distributed.device_mesh.DeviceMesh` of one dimension.

    Raises:
        UserError: if the model does not say which of its modules are layers.
    """
    from torch.distributed.fsdp import fully_shard

    from emodistill.language_models.four_bit import bnb  # imports that take long, and that the selector does not need

    names = set(getattr(base, "_no_split_modules", None) or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise UserError(
            f"model={base.name_or_path}: transformers does not say what its layers are, so they cannot be spread over "
            "devices; use trainer.strategy=ddp"
        )
    for module in root.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            _store_as_floats(module)
    for layer in reversed(layers):  # inner ones first, should one hold another
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)


def _store_as_floats(linear: Any) -> None:
    weight = linear.weight
    linear.quant_state, linear.quant_storage = weight.quant_state, STORAGE
    linear.weight = nn.Parameter(weight.data.view(-1).view(STORAGE).view(-1, 1), requires_grad=False)


def quant_state_of(linear: Any) -> Any:
    """What unpacks the weight of a linear layer in 4 bits; None where the weight is plain."""
    return getattr(linear.weight, "quant_state", None) or getattr(linear, "quant_state", None)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over devices, whole; all devices have to ask for it in the same order."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def spread_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which every device has, spread over devices as another one of its shape is."""
    if not hasattr(other, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
