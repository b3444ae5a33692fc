"""What a local model says next after a text that begins with a long, shared prefix.

The prefix goes through the model once. Its keys and values are one row that every later text sees, and nothing is
copied for a text but what one layer needs for the moment: a long prefix costs attention and little else. A model that
keeps something else than keys and values continues a copy of the library's cache, text by text.

Shapes: N texts, L tokens of the longest, P tokens of the prefix, H key-value heads, D their width.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from emodistill.language_models.attention_masks import mask_for, takes_masks

PADDING = 0  # masked, so any id will do


@dataclass(frozen=True)
class Prefix:
    """A text that has been read.

    Attributes:
        layers: for each layer its keys and values, (1, H, P, D) each; empty where the model keeps something else.
        length: P.
        cache: what the library keeps of it.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    length: int
    cache: DynamicCache


class _SharedLayer(CacheLayerMixin):
    """One layer: the prefix for every row, then the row's own keys and values, which nobody keeps."""

    is_sliding = False

    def __init__(self, prefix: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.prefix = prefix

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do: the prefix exists."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """(N, H, L, D) keys and values in, (N, H, P + L, D) out."""
        rows = key_states.shape[0]
        keys, values = (
            torch.cat([before.expand(rows, -1, -1, -1), new], dim=2)
            for before, new in zip(self.prefix, (key_states, value_states), strict=True)
        )
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.prefix[0].shape[2] + query_length, 0

    def get_seq_length(self) -> int:
        return self.prefix[0].shape[2]

    def get_max_length(self) -> int:
        return -1


@torch.inference_mode()
def read_prefix(model: Any, ids: Sequence[int]) -> Prefix:
    """Run a text's tokens through the model and keep what later tokens need of them."""
    masked = takes_masks(model)
    cache = DynamicCache() if masked else DynamicCache(config=model.config)  # the first keeps what windows have passed
    model(input_ids=torch.tensor([list(ids)], device=model.device), past_key_values=cache, logits_to_keep=1)
    layers: list[Any] = list(cache.layers) if masked else []
    return Prefix(tuple((layer.keys, layer.values) for layer in layers), len(ids), cache)


@torch.inference_mode()
def next_logits(model: Any, prefix: Prefix, texts: Sequence[Sequence[int]], tokens: Sequence[int]) -> Tensor:
    """Logits of some tokens after prefix and text: (N, len(tokens)), float32, on the CPU.

    Args:
        texts: token ids, each at least one.
    """
    if not takes_masks(model):
        return torch.cat([_next_alone(model, prefix, text, tokens) for text in texts])
    longest, device = max(map(len, texts)), model.device
    ids = torch.tensor([[PADDING] * (longest - len(text)) + list(text) for text in texts], device=device)
    padding = torch.tensor([longest - len(text) for text in texts], device=device).unsqueeze(1)
    columns = torch.arange(longest, device=device)
    own = (columns <= columns.unsqueeze(1)) & (columns >= padding.unsqueeze(2))  # (N, L, L); padding sees the prefix
    mask = torch.cat([own.new_ones(len(texts), longest, prefix.length), own], dim=2).unsqueeze(1)
    places = prefix.length + (columns - padding).clamp(min=0)
    before = torch.arange(prefix.length, device=device).expand(len(texts), -1)
    output = model(
        input_ids=ids,
        attention_mask=mask_for(model, mask, places, torch.cat([before, places], dim=1)),
        position_ids=places,
        past_key_values=Cache(layers=[_SharedLayer(layer) for layer in prefix.layers]),
        use_cache=True,
        logits_to_keep=1,
    )
    chosen: Tensor = output.logits[:, -1, list(tokens)]
    return chosen.float().cpu()


def _next_alone(model: Any, prefix: Prefix, text: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """As `next_logits`, of one text."""
    output = model(
        input_ids=torch.tensor([list(text)], device=model.device),
        past_key_values=copy.deepcopy(prefix.cache),
        use_cache=True,
        logits_to_keep=1,
    )
    chosen: Tensor = output.logits[:, -1, list(tokens)]
    return chosen.float().cpu()
