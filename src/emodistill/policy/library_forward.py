"""Speaking by the library's own forward pass, for the models that `RowForward` does not serve.

A model whose layers keep keys and values runs over a `RowCache` (`run_rows`); one whose layers keep something else runs
over the library's own caches (`LibraryDecoder`).

Shapes: R rows, N new tokens a row, W columns in use, H key-value heads, D their width, V vocabulary entries.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from emodistill.language_models.attention_masks import mask_for, takes_masks
from emodistill.policy import generation
from emodistill.policy.generation import RowCache, Sampling, Session, pick, say_once, uniform_noise

PADDING = 0  # masked, so any id will do
_SAME = 0.1  # of the spread of logits: far more than rounding in bfloat16, far less than a forgotten beginning


def states_of(model: Any) -> list[Tensor]:
    """Keys and values of one token in every layer, found by running the model over it.

    The list is empty if layers differ, or masks cannot tell rows apart.
    """
    if not takes_masks(model):
        return []
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache)
    states: list[Any] = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    alike = {getattr(state, "shape", None) for state in states} == {getattr(states[0], "shape", ())}
    return states if alike else []


class Step(NamedTuple):
    """Where the new tokens of one forward pass are stored, and what they attend to."""

    positions: Tensor  # (R, N) long, a token's place in its chat
    columns: Tensor  # (R, N) long, the same, except that padding has the spare column
    mask: Tensor  # (R, 1, N, W) bool, true where a new token sees a column
    width: int  # W


class _Layer(CacheLayerMixin):
    """One layer of a `RowCache` in one forward pass, with the interface of transformers."""

    is_sliding = False

    def __init__(self, data: Tensor, step: Step) -> None:
        """
        Args:
            data: (2, rows, H, capacity + 1, D) of the `RowCache`.
        """
        super().__init__()
        self.data, self.step = data, step

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffer exists."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store (R, H, N, D) keys and values; returns those of all columns in use, (R, H, W, D)."""
        data, step = self.data, self.step
        rows = torch.arange(len(step.columns), device=data.device).unsqueeze(1)
        for buffer, states in zip(data, (key_states, value_states), strict=True):
            buffer[rows, :, step.columns] = states.transpose(1, 2)
        keys, values = data[:, : len(step.columns), :, : step.width]
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.step.width, 0

    def get_seq_length(self) -> int:
        return self.step.width

    def get_max_length(self) -> int:
        return -1


def planned(cache: RowCache, counts: Sequence[int]) -> Step:
    """Plan a forward pass over the first rows, `counts` new tokens each, padded on the left; lengths grow by it."""
    device, rows = cache.data.device, len(counts)
    ends = [held + new for held, new in zip(cache.lengths, counts, strict=False)]
    starts, cache.lengths[:rows], width = torch.tensor(cache.lengths[:rows], device=device), ends, max(ends)
    offsets = torch.arange(max(counts), device=device) - (max(counts) - torch.tensor(counts, device=device)).unsqueeze(
        1
    )
    padding, positions = offsets < 0, (starts.unsqueeze(1) + offsets).clamp(min=0)
    # padding sees column 0 at least, or else its softmax over nothing would be NaN
    mask = torch.arange(width, device=device) <= positions.unsqueeze(2)
    return Step(positions, positions.masked_fill(padding, cache.capacity), mask.unsqueeze(1), width)


def run_rows(model: Any, cache: RowCache, ids: Sequence[Sequence[int]]) -> Tensor:
    """Run new tokens of the first rows through the model; (R, V) float32 after the last of each row that has one."""
    step = planned(cache, [len(new) for new in ids])
    longest, device = max(map(len, ids)), step.mask.device
    output = model(
        input_ids=torch.tensor([[PADDING] * (longest - len(new)) + list(new) for new in ids], device=device),
        attention_mask=mask_for(model, step.mask, step.positions, torch.arange(step.width, device=device)[None]),
        position_ids=step.positions,
        past_key_values=Cache(layers=[_Layer(data, step) for data in cache.data]),
        use_cache=True,
        logits_to_keep=1,
    )
    last: Tensor = output.logits[:, -1]
    return last.float()


class LibraryDecoder:
    """The token loop over the library's own caches, for layers that keep something else than keys and values.

    Short convolutions and linear attention keep a state of all that was read. It can be continued and copied, but not
    shortened, and rows of different lengths cannot stand in one batch. So chats are answered one after the other; the
    replies to one context, which grow together, are one batch. What a session keeps is the state before its reply: the
    reply as it was really said is read with the next message.
    """

    def __init__(self, model: Any, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self._continues = True
        self._continues = self._goes_on()
        say_once(
            f"{model.name_or_path} keeps states that cannot be told apart in a batch: chats are answered one after the "
            "other, by the library's own forward pass, which is slower"
        )

    @torch.no_grad()
    def _goes_on(self) -> bool:
        """Whether the model reads several tokens after others as it reads all of them at once; found by trying."""
        ids = torch.arange(1, 8).tolist()
        whole, parts = self.new_cache(), self.new_cache()
        expected = self._read(whole, ids)
        self._read(parts, ids[:3])
        found = self._read(parts, ids[3:])
        return bool((found - expected).abs().max() < _SAME * expected.std())

    def new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def continue_(self, session: Session, seed: int) -> list[int]:
        """Read what the session has not been read of, then write its reply, which is appended."""
        known = session.reusable() if self._continues else 0
        cache = session.keys_values if known else self.new_cache()
        assert isinstance(cache, DynamicCache)
        session.cached, session.keys_values = [], None  # the state moves on in place
        logits = self._read(cache, session.tokens[known:])
        session.cached, session.keys_values = list(session.tokens), copy.deepcopy(cache)
        (reply,) = self._write(cache, logits, uniform_noise([seed], self.sampling.max_new_tokens))
        session.tokens.extend(reply)
        return reply

    def branch(
        self, contexts: Sequence[Sequence[int]], rows: list[tuple[int, int]], seeds: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """Replies (i, j) to the contexts i, each of which is read once; `seeds` are by reply."""
        replies: dict[tuple[int, int], list[int]] = {}
        for context in sorted({i for i, _ in rows}):
            own = [row for row in rows if row[0] == context]
            own_seeds = [seed for seed, row in zip(seeds, rows, strict=True) if row[0] == context]
            cache = self.new_cache()
            logits = self._read(cache, contexts[context])
            cache.reorder_cache(torch.zeros(len(own), dtype=torch.long, device=self.model.device))
            noise = uniform_noise(own_seeds, self.sampling.max_new_tokens)
            replies |= zip(own, self._write(cache, logits.expand(len(own), -1), noise), strict=True)
        return [replies[row] for row in rows]

    def _read(self, cache: DynamicCache, ids: Sequence[int]) -> Tensor:
        """Logits after the last of these tokens, (1, V) float32."""
        logits, step = torch.empty(0), generation.PREFILL_TOKENS if self._continues else len(ids)
        for first in range(0, len(ids), step):
            logits = self._forward(cache, [list(ids[first : first + step])])
        return logits

    def _forward(self, cache: DynamicCache, ids: list[list[int]]) -> Tensor:
        """Logits after the last token of each row, (R, V) float32."""
        output = self.model(
            input_ids=torch.tensor(ids, device=self.model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        last: Tensor = output.logits[:, -1]
        return last.float()

    def _write(self, cache: DynamicCache, logits: Tensor, noise: Tensor) -> list[list[int]]:
        """Sample one token a row and step until every row has ended; see `Decoder.decode`."""
        owners, noise = list(range(len(logits))), noise.to(logits.device)
        replies: list[list[int]] = [[] for _ in owners]
        for position in range(self.sampling.max_new_tokens):
            drawn = pick(logits, noise[owners, position], self.sampling.temperature, self.sampling.top_k).tolist()
            for row, owner in enumerate(owners):
                replies[owner].append(drawn[row])
            left = [row for row, token in enumerate(drawn) if token not in self.sampling.stop_ids]
            if not left or position + 1 == self.sampling.max_new_tokens:
                break
            if len(left) < len(owners):
                cache.reorder_cache(torch.tensor(left, device=logits.device))
                owners = [owners[row] for row in left]
            logits = self._forward(cache, [[drawn[row]] for row in left])
        return replies
