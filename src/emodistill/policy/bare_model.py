"""A Llama-like model of transformers as tensors and plain values, and put together again without transformers.

Importing the library's own model takes longer than a reply. What is put together has the parts that `RowForward` and
`ChatGenerator` read, under the library's names, and no forward pass of its own.
"""

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

NUMBERS = (  # what `RowForward` reads of modules besides their weights
    "attention_scaling",
    "embedding_multiplier",
    "head_dim",
    "residual_multiplier",
    "scaling",
    "use_rope",
    "variance_epsilon",
)
ROTATION = "model.rotary_emb"


def taken_apart(model: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a model, and what JSON can hold: its configuration, and the kind and numbers of every module."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors[f"{ROTATION}.inv_freq"] = model.model.rotary_emb.inv_freq
    modules = {
        name: {"kind": type(module).__name__}
        | {key: getattr(module, key) for key in NUMBERS if isinstance(getattr(module, key, None), int | float)}
        for name, module in model.named_modules()
        if name
    }
    config = json.loads(model.config.to_json_string(use_diff=False))
    return tensors, {"config": config, "ends": model.generation_config.eos_token_id, "modules": modules}


class BareModel(nn.Module):
    """What `taken_apart` returned, as modules; an output layer without a weight has that of the embedding."""

    def __init__(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any], name: str) -> None:
        """
        Args:
            name: of the model, for errors.
        """
        super().__init__()
        self.config, self.name_or_path = _Config(**about["config"]), name
        self.generation_config = SimpleNamespace(eos_token_id=about["ends"])
        for path, given in about["modules"].items():  # whoever holds a module comes before it
            holder, _, leaf = path.rpartition(".")
            module = _Rotation() if path == ROTATION else _KINDS.get(given["kind"], nn.Module)()
            for key in NUMBERS:
                if key in given:
                    setattr(module, key, given[key])
            self.get_submodule(holder).add_module(leaf, module)
        for path, tensor in tensors.items():
            holder, _, leaf = path.rpartition(".")
            setattr(self.get_submodule(holder), leaf, nn.Parameter(tensor, requires_grad=False))
        if "lm_head.weight" not in tensors:
            self.get_submodule("lm_head").weight = self.get_input_embeddings().weight

    def get_input_embeddings(self) -> nn.Module:
        return self.get_submodule("model.embed_tokens")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class _Config(SimpleNamespace):
    def get_text_config(self) -> "_Config":
        return self


class _Rotation(nn.Module):
    """Cosines and sines of the library's rotary embedding, where they do not depend on how long a text is."""

    inv_freq: Tensor
    attention_scaling: float

    def forward(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N) -> two of (..., N, D), in the dtype of `like`."""
        angles = positions[..., None].float() * self.inv_freq
        both = torch.cat((angles, angles), dim=-1)
        cosines, sines = both.cos() * self.attention_scaling, both.sin() * self.attention_scaling
        return cosines.to(like.dtype), sines.to(like.dtype)


def _empty_linear() -> nn.Linear:
    return nn.Linear(1, 1, bias=False, device="meta")


def _empty_embedding() -> nn.Embedding:
    return nn.Embedding(1, 1, _weight=torch.empty(1, 1))  # without `_weight`, PyTorch imports its compiler for it


_KINDS = {"Linear": _empty_linear, "Embedding": _empty_embedding, "ModuleList": nn.ModuleList}
