"""The token loop: new tokens of many chats through the model, then one token a row and step until every row has ended.

Shapes: R rows, V vocabulary entries, T tokens of the longest reply.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emodistill.errors import UserError
from emodistill.policy.kv_cache import Layout, RowCache
from emodistill.policy.sampling import pick

PREFILL_TOKENS = 8192  # new tokens in one forward pass: bounds the memory of activations
PADDING = 0  # masked, so any id will do
COLUMNS = 256  # buffers grow by this many columns at a time, so that one serves several rounds


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: how many of the likeliest tokens are drawn from; None is all of them, which costs ten times as much.
        max_new_tokens: longest reply, its end included.
        stop_ids: tokens that end a reply.
    """

    temperature: float
    top_k: int | None
    max_new_tokens: int
    stop_ids: frozenset[int]

    def __post_init__(self) -> None:
        for name, value in (("top_k", self.top_k), ("max_new_tokens", self.max_new_tokens)):
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature}: must be 0 (greedy) or a positive number")


class Decoder:
    """One model with one buffer of attention rows, which serves call after call."""

    def __init__(self, model: Any, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self._layout = Layout.of(model)
        self._buffer: RowCache | None = None

    def rows(self, chats: list[Sequence[int]]) -> RowCache:
        """The buffer, made larger where it is too small for these chats and their replies."""
        columns = max(map(len, chats)) + self.sampling.max_new_tokens
        if self._buffer is None or len(self._buffer.lengths) < len(chats) or self._buffer.capacity < columns:
            rows = max(len(chats), len(self._buffer.lengths) if self._buffer else 0)
            self._buffer = None  # freed before the next one is made
            self._buffer = RowCache(self._layout, rows, -(-columns // COLUMNS) * COLUMNS)
        return self._buffer

    def feed(self, cache: RowCache, pending: list[list[int]]) -> Tensor:
        """Run new tokens of the first rows, of different lengths, through the model; logits after each row's last."""
        longest = max(map(len, pending))
        padded = [[PADDING] * (longest - len(ids)) + ids for ids in pending]
        step = max(1, PREFILL_TOKENS // len(pending))
        logits = torch.empty(0)
        for first in range(0, longest, step):
            last = min(first + step, longest)
            counts = [min(last - first, max(0, last - (longest - len(ids)))) for ids in pending]
            logits = self._forward(cache, [ids[first:last] for ids in padded], counts)
        return logits

    def _forward(self, cache: RowCache, ids: list[list[int]], counts: list[int]) -> Tensor:
        step = cache.prepare(counts)
        output = self.model(
            input_ids=torch.tensor(ids, device=step.mask.device),
            attention_mask=step.mask,
            position_ids=step.positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        last: Tensor = output.logits[:, -1]
        return last.float()

    def decode(
        self, cache: RowCache, logits: Tensor, noise: Tensor, finish: Callable[[int, int, list[int]], None]
    ) -> list[list[int]]:
        """Sample until every row has ended; `finish(owner, row, reply)` is called before a row is given up."""
        owners, noise = list(range(len(logits))), noise.to(logits.device)
        replies: list[list[int]] = [[] for _ in owners]
        for position in range(self.sampling.max_new_tokens):
            drawn = pick(logits, noise[owners, position], self.sampling.temperature, self.sampling.top_k).tolist()
            for row in reversed(range(len(owners))):
                reply = replies[owners[row]]
                reply.append(drawn[row])
                if drawn[row] in self.sampling.stop_ids or position + 1 == self.sampling.max_new_tokens:
                    finish(owners[row], row, reply)
                    cache.move(len(owners) - 1, row)  # those still speaking stay the first rows
                    owners[row], drawn[row] = owners[-1], drawn[len(owners) - 1]
                    owners.pop()
            if not owners:
                break
            logits = self._forward(cache, [[token] for token in drawn[: len(owners)]], [1] * len(owners))
        return replies
