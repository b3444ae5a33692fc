"""An attention cache whose rows have their own lengths: column j of a row is token j of its chat, always.

The usual batched cache pads every round to its longest row, so that holes pile up over a conversation, and copies all
of itself to append one token. Here each row writes where it ends, in a buffer made once: there are no holes to mask, a
row's position ids are its columns, forgetting the end of a row means lowering its length, and rows that finish are
overwritten by the last one, so that those still speaking are always the first rows, in one view.

Shapes: R rows, N new tokens a row, W columns in use, H key-value heads, D their width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from emodistill.errors import UserError


class Layout(NamedTuple):
    """What a model keeps of a token."""

    layers: int
    heads: int
    width: int
    like: Tensor  # any tensor of the device and dtype

    @classmethod
    def of(cls, model: Any) -> "Layout":
        """Read off a pass over one token.

        Raises:
            UserError: if the layers differ, or keep something else than keys and values.
        """
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache)
        states: list[Any] = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
        if {getattr(state, "shape", None) for state in states} != {getattr(states[0], "shape", ())}:
            raise UserError(
                f"model={model.name_or_path}: its layers do not all keep keys and values of one shape; choose a model "
                "with plain attention in every layer, such as Llama, Qwen2.5, SmolLM2 or Mistral"
            )
        return cls(len(states) // 2, states[0].shape[1], states[0].shape[3], states[0].new_zeros(()))


def context_limit(model: Any) -> int:
    """Tokens a chat may have with this model; a sliding window counts as the end of what it can see."""
    config = model.config.get_text_config()
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None) if slides else None
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


class Step(NamedTuple):
    """Where the new tokens of one forward pass go, and what they see."""

    positions: Tensor  # (R, N) long, a token's place in its chat
    columns: Tensor  # (R, N) long, the same, but the spare column for padding
    mask: Tensor  # (R, 1, N, W) bool, true where a new token sees a column
    width: int  # W


class _Layer(CacheLayerMixin):
    """One layer's view of the cache, as transformers calls it."""

    is_sliding = False

    def __init__(self, owner: "RowCache", index: int) -> None:
        super().__init__()
        self.owner, self.index = owner, index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do: the buffer exists."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store (R, H, N, D) keys and values; returns those of all columns in use, (R, H, W, D)."""
        data, step = self.owner.data[self.index], self.owner.step
        rows = torch.arange(len(step.columns), device=data.device).unsqueeze(1)
        for buffer, states in zip(data, (key_states, value_states), strict=True):
            buffer[rows, :, step.columns] = states.transpose(1, 2)
        keys, values = data[:, : len(step.columns), :, : step.width]
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.step.width, 0

    def get_seq_length(self) -> int:
        return self.owner.step.width

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """Keys and values of up to `rows` chats of up to `capacity` tokens.

    Attributes:
        capacity: most tokens of a row.
        data: (layers, 2, rows, H, capacity + 1, D); the spare last column takes what padding writes.
        lengths: tokens held in each row.
    """

    def __init__(self, layout: Layout, rows: int, capacity: int) -> None:
        super().__init__(layers=[_Layer(self, index) for index in range(layout.layers)])
        self.capacity = capacity
        self.data = layout.like.new_zeros((layout.layers, 2, rows, layout.heads, capacity + 1, layout.width))
        self.lengths = [0] * rows
        self.step: Step

    def prepare(self, counts: Sequence[int]) -> Step:
        """Plan a forward pass over the first rows, `counts` new tokens each, padded on the left; lengths grow by it."""
        device, rows = self.data.device, len(counts)
        ends = [held + new for held, new in zip(self.lengths, counts, strict=False)]
        starts, self.lengths[:rows], width = torch.tensor(self.lengths[:rows], device=device), ends, max(ends)
        offsets = torch.arange(max(counts), device=device) - (
            max(counts) - torch.tensor(counts, device=device)
        ).unsqueeze(1)
        padding, positions = offsets < 0, (starts.unsqueeze(1) + offsets).clamp(min=0)
        # padding sees column 0 at least, or else its softmax over nothing would be NaN
        mask = torch.arange(width, device=device) <= positions.unsqueeze(2)
        self.step = Step(positions, positions.masked_fill(padding, self.capacity), mask.unsqueeze(1), width)
        return self.step

    def load(self, row: int, saved: Tensor | None, length: int) -> None:
        """Fill a row with the first `length` tokens of a saved one."""
        if saved is not None:
            self.data[:, :, row, :, :length] = saved[:, :, :, :length]
        self.lengths[row] = length

    def save(self, row: int) -> Tensor:
        """A copy of a row: (layers, 2, H, length, D)."""
        return self.data[:, :, row, :, : self.lengths[row]].clone()

    def move(self, source: int, target: int) -> None:
        """Overwrite one row by another."""
        if source != target:
            length = self.lengths[source]
            self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]
            self.lengths[target] = length
