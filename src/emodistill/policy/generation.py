"""Batched generation for many chats at once, each with its attention cache kept from round to round.

From the bottom up: `RowCache` holds keys and values of chats of different lengths, `pick` draws a token, `Decoder` runs
the token loop (by our own `RowForward` where it serves the model, else by the library's forward pass), `ChatGenerator`
continues chats or samples several replies to one context, and `RolloutSampler` does so with a merged copy of the
expression policy. Models whose layers keep something else than keys and values speak through `LibraryDecoder`. What
needs the library is in `library_forward`, and imported for the models that need it.

The noise of a reply is a function of its seed alone: one uniform number a token, turned into a token by the inverse of
the cumulative distribution. So the same seed gives the same reply whatever else is in the batch, except where rounding
that depends on the batch tips a choice: rare in float32, now and then in bfloat16.

Shapes: R rows, N new tokens a row, W columns in use, H key-value heads, D their width, V vocabulary entries, T tokens
of the longest reply.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from emodistill.errors import UserError
from emodistill.language_models.local import context_limit, device_of, dtype_of
from emodistill.language_models.packed_linear import pack_linears, plain_weights
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.row_forward import RowForward
from emodistill.policy.token_batches import shared_beginnings

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from emodistill.policy.expression_policy import ExpressionPolicy
    from emodistill.policy.library_forward import LibraryDecoder

PREFILL_TOKENS = 8192  # new tokens in one forward pass: bounds the memory of activations
COLUMNS = 64  # rows are a multiple of this long: the CPU's libraries keep a compiled kernel for every length

logger = logging.getLogger(__name__)


@cache
def say_once(line: str) -> None:
    logger.warning("%s", line)


class Layout(NamedTuple):
    """The keys and values that a model keeps of a token."""

    layers: int
    heads: int
    width: int
    like: Tensor  # any tensor of the device and dtype

    @classmethod
    def of(cls, model: Any) -> "Layout | None":
        """None if layers differ, or masks cannot tell rows apart."""
        if RowForward.serves(model):
            layers, like = model.model.layers, model.get_input_embeddings().weight.new_zeros(())
            return cls(len(layers), model.config.num_key_value_heads, layers[0].self_attn.head_dim, like)
        from emodistill.policy.library_forward import states_of

        states = states_of(model)
        return (
            cls(len(states) // 2, states[0].shape[1], states[0].shape[3], states[0].new_zeros(())) if states else None
        )

    def numbers(self, rows: int, columns: int) -> int:
        """How many numbers so many rows of so many tokens take."""
        return self.layers * 2 * rows * self.heads * columns * self.width


class RowCache:
    """Keys and values of up to `rows` chats of up to `capacity` tokens; column j of a row is token j of its chat.

    The usual batched cache pads every round to its longest row, so that gaps add up over a conversation, and copies
    itself to append one token. Here each row is written where it ends, in a buffer made once. There are no gaps to
    mask, a row's position ids are its columns, and to forget the end of a row is to lower its length. A row that
    finishes is overwritten by the last one, so those still being written are always the first rows, in one view.

    Attributes:
        capacity: most tokens of a row.
        data: (layers, 2, rows, H, capacity + 1, D); the spare last column takes what padding writes.
        lengths: tokens held in each row.
    """

    def __init__(self, layout: Layout, rows: int, capacity: int, memory: Tensor) -> None:
        """
        Args:
            memory: where `data` lies; whatever it holds has to be finite.
        """
        self.capacity = capacity
        self.data = memory[: layout.numbers(rows, capacity + 1)].view(
            layout.layers, 2, rows, layout.heads, capacity + 1, layout.width
        )
        self.lengths = [0] * rows

    def load(self, row: int, saved: Tensor | None, length: int) -> None:
        """Fill a row with the first `length` tokens of a saved one."""
        if saved is not None:
            self.data[:, :, row, :, :length] = saved[:, :, :, :length]
        self.lengths[row] = length

    def save(self, row: int) -> Tensor:
        """A copy of a row: (layers, 2, H, L, D), with whatever is there behind its last token.

        L is a multiple of `COLUMNS`: copies of every length, one after the other, would tear memory into pieces.
        """
        columns = min(-(-self.lengths[row] // COLUMNS) * COLUMNS, self.capacity + 1)
        return self.data[:, :, row, :, :columns].clone()

    def copy(self, source: int, target: int, length: int) -> None:
        """Fill a row with the first `length` tokens of another."""
        self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]
        self.lengths[target] = length

    def move(self, source: int, target: int) -> None:
        """Overwrite one row by another."""
        if source != target:
            self.copy(source, target, self.lengths[source])


def uniform_noise(seeds: Sequence[int | Sequence[int]], length: int) -> Tensor:
    """One uniform number in [0, 1) a token; a row depends on its own seed alone: (R, T) float64."""
    return torch.from_numpy(np.stack([np.random.default_rng(seed).random(length) for seed in seeds]))


def pick(logits: Tensor, uniforms: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """One token a row, drawn with the row's uniform number: (R, V), (R,) -> (R,) long.

    Temperature 0 is the likeliest token; `top_k=None` draws from all.
    """
    if temperature == 0:
        return logits.argmax(-1)
    # the k likeliest come first: softmax and cumulative sum over a vocabulary of 49,152 cost ten times as much
    values, ids = logits.topk(min(top_k or logits.shape[1], logits.shape[1]))
    # in the order of ids: in the order of logits, a rounding error that swaps two likely tokens would change far more
    # draws than its own size
    ids, order = ids.sort(-1)
    likelihood = (values.double().gather(1, order) / temperature).softmax(-1)
    cumulative = likelihood.cumsum(-1)
    rank = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1]).unsqueeze(1), right=True)
    return ids.gather(1, rank.clamp(max=ids.shape[1] - 1)).squeeze(1)


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
    """The token loop of one model, with one `RowCache` that serves call after call."""

    def __init__(self, model: Any, sampling: Sampling, layout: Layout) -> None:
        self.model, self.sampling = model, sampling
        self._layout = layout
        self._own_forward = RowForward(model) if RowForward.serves(model) else None
        if self._own_forward is None:
            say_once(f"{model.name_or_path} speaks by the library's own forward pass, which is slower than ours")
        self._memory = self._layout.like.new_zeros(0)

    def rows(self, chats: list[Sequence[int]]) -> RowCache:
        """A cache for these chats and their replies, in the memory of the last one where that is large enough."""
        columns = -(-(max(map(len, chats)) + self.sampling.max_new_tokens + 1) // COLUMNS) * COLUMNS
        needed = self._layout.numbers(len(chats), columns)
        if len(self._memory) < needed:
            self._memory = self._memory[:0].clone()  # freed before more is taken
            self._memory = self._memory.new_zeros(needed * 5 // 4)  # chats grow; what is not touched takes no memory
        return RowCache(self._layout, len(chats), columns - 1, self._memory)

    def feed(self, cache: RowCache, pending: list[list[int]]) -> Tensor:
        """Run new tokens of the first rows, of different lengths, through the model.

        Returns:
            Logits after the last token of each row, (R, V) float32.
        """
        longest = max(map(len, pending))
        step = max(1, PREFILL_TOKENS // len(pending))
        logits = torch.empty(0)
        for first in range(0, longest, step):  # the last step has the last token of every row
            ends = [max(0, len(ids) - longest + first + step) for ids in pending]
            chunk = [ids[max(0, end - step) : end] for ids, end in zip(pending, ends, strict=True)]
            logits = self._forward(cache, chunk)
        return logits

    def _forward(self, cache: RowCache, ids: Sequence[Sequence[int]]) -> Tensor:
        """Logits after the last new token of each row that has one, (R, V) float32."""
        if self._own_forward:
            starts = cache.lengths[: len(ids)]
            cache.lengths[: len(ids)] = [start + len(new) for start, new in zip(starts, ids, strict=True)]
            return self._own_forward(cache.data, starts, ids).float()
        from emodistill.policy.library_forward import run_rows

        return run_rows(self.model, cache, ids)

    def decode(
        self, cache: RowCache, logits: Tensor, noise: Tensor, finish: Callable[[int, int, list[int]], None]
    ) -> list[list[int]]:
        """Sample one token a row and step until every row has ended.

        Args:
            logits: (R, V) after what was fed.
            noise: (R, T) uniform numbers, one a token.
            finish: called as `finish(i, row, reply)` when reply i has ended, while its row of the cache is still there.

        Returns:
            The replies in the order of the logits.
        """
        owners, noise = list(range(len(logits))), noise.to(logits.device)  # owners[row] is the reply that a row writes
        replies: list[list[int]] = [[] for _ in owners]
        for position in range(self.sampling.max_new_tokens):
            drawn = pick(logits, noise[owners, position], self.sampling.temperature, self.sampling.top_k).tolist()
            for row in reversed(range(len(owners))):
                reply = replies[owners[row]]
                reply.append(drawn[row])
                if drawn[row] in self.sampling.stop_ids or position + 1 == self.sampling.max_new_tokens:
                    finish(owners[row], row, reply)
                    cache.move(len(owners) - 1, row)  # the replies that go on stay the first rows
                    owners[row], drawn[row] = owners[-1], drawn[len(owners) - 1]
                    owners.pop()
            if not owners:
                break
            logits = self._forward(cache, [[token] for token in drawn[: len(owners)]])
        return replies


@dataclass(eq=False)
class Session:
    """One chat under way: its tokens, and the attention cache of a prefix of them.

    Before a reply, all tokens that the cache does not hold are fed. So the cache cannot disagree with what was really
    said, and a round costs its own tokens, not those of earlier rounds.

    Attributes:
        tokens: everything said so far. The owner may edit it freely between two calls.
        cached: the tokens whose keys and values `keys_values` holds.
        keys_values: (layers, 2, H, len(cached) or more, D), the library's own cache, or None.
    """

    tokens: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    keys_values: "Tensor | Cache | None" = None

    def reusable(self) -> int:
        """How many tokens need not be fed again: the common beginning, except the last, whose output is needed.

        A cache of the library is of use as a whole or not at all: a state does not forget its last tokens.
        """
        common = 0
        for said, held in zip(self.tokens[:-1], self.cached, strict=False):
            if said != held:
                break
            common += 1
        whole = self.keys_values is None or isinstance(self.keys_values, Tensor) or common == len(self.cached)
        return common if whole else 0

    @property
    def held_bytes(self) -> int:
        """Memory of the attention cache."""
        if self.keys_values is None or isinstance(self.keys_values, Tensor):
            return 0 if self.keys_values is None else self.keys_values.nbytes
        parts = [part for layer in self.keys_values.layers for part in vars(layer).values()]
        return sum(part.nbytes for part in parts if isinstance(part, Tensor))

    def forget(self) -> None:
        """Give the attention cache back; all tokens are fed again before the next reply."""
        self.cached, self.keys_values = [], None


class ChatGenerator:
    """Samples replies for many chats with one model.

    Attributes:
        context: the most tokens a chat may have, its next reply included.
        read, written: tokens fed and tokens sampled so far; tokens that the cache still held are not fed again.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        temperature: float,
        top_k: int | None,
        max_new_tokens: int,
        max_batch: int = 32,
        stop_ids: Sequence[int] = (),
    ) -> None:
        """
        Args:
            model: a causal language model of transformers.
            temperature, top_k, max_new_tokens: see `Sampling`.
            max_batch: most rows in one forward pass; more chats are split up.
            stop_ids: tokens that end a reply, besides the ends of sequence of the tokenizer and the model.

        Raises:
            UserError: if a setting has no meaning.
        """
        if max_batch < 1:
            raise UserError(f"max_batch={max_batch}: must be at least 1")
        stops = {*stop_ids, tokenizer.eos_token_id, *ends_of(model)} - {None}
        self.sampling, self.max_batch = Sampling(temperature, top_k, max_new_tokens, frozenset(stops)), max_batch
        self.name, self.context = str(model.name_or_path), context_limit(model.config)
        layout = Layout.of(model)
        self._library: LibraryDecoder | None = None
        if layout is not None:
            self._decoder = Decoder(model, self.sampling, layout)
        else:
            from emodistill.policy import library_forward

            self._library = library_forward.LibraryDecoder(model, self.sampling)
        self.read = self.written = 0

    @torch.inference_mode()
    def extend_and_sample(
        self, sessions: Sequence[Session], new_tokens: Sequence[Sequence[int]], seeds: Sequence[int]
    ) -> list[list[int]]:
        """Append each chat's new tokens, then sample its reply, which is appended too.

        Args:
            seeds: one for each reply.

        Returns:
            The replies as sampled: the token that ended one is its last, unless it was cut at `max_new_tokens`.

        Raises:
            ValueError: if a chat leaves no room for a reply in the model's context; its owner has to shorten it.
        """
        for session, new in zip(sessions, new_tokens, strict=True):
            self._check_length(len(session.tokens) + len(new))
        for session, new in zip(sessions, new_tokens, strict=True):
            session.tokens.extend(new)
        self.read += sum(len(session.tokens) - session.reusable() for session in sessions)
        replies: list[list[int]] = [[] for _ in sessions]
        order = sorted(range(len(sessions)), key=lambda i: len(sessions[i].tokens))  # like lengths batch well
        for first in range(0, len(order), self.max_batch):
            chunk = order[first : first + self.max_batch]
            sampled = self._continue([sessions[i] for i in chunk], [seeds[i] for i in chunk])
            for i, reply in zip(chunk, sampled, strict=True):
                replies[i] = reply
                self.written += len(reply)
        return replies

    @torch.inference_mode()
    def sample(
        self, contexts: Sequence[Sequence[int]], count: int, seed: int, numbers: Sequence[int] | None = None
    ) -> list[list[list[int]]]:
        """`count` independent replies to each context, which is fed once for all of them in a batch.

        Reply j to context number i depends on (seed, i, j) alone. See `extend_and_sample` for what a reply holds.

        Args:
            numbers: of the contexts, where they are some of many; None counts from 0.
        """
        for context in contexts:
            self._check_length(len(context))
        names = range(len(contexts)) if numbers is None else numbers
        rows = [(i, j) for i in range(len(contexts)) for j in range(count)]
        replies: list[list[list[int]]] = [[] for _ in contexts]
        for first in range(0, len(rows), self.max_batch):
            chunk = rows[first : first + self.max_batch]
            seeds = [(seed, names[i], j) for i, j in chunk]
            for (i, _), reply in zip(chunk, self._branch(contexts, chunk, seeds), strict=True):
                replies[i].append(reply)
        return replies

    def _check_length(self, tokens: int) -> None:
        if not 0 < tokens <= self.context - self.sampling.max_new_tokens:
            raise ValueError(f"a chat of {tokens} tokens and a reply do not fit a context of {self.context}")

    def _continue(self, sessions: list[Session], seeds: list[int]) -> list[list[int]]:
        if self._library:
            return [self._library.continue_(session, seed) for session, seed in zip(sessions, seeds, strict=True)]
        cache, known = self._decoder.rows([session.tokens for session in sessions]), [s.reusable() for s in sessions]
        for row, (session, length) in enumerate(zip(sessions, known, strict=True)):
            assert session.keys_values is None or isinstance(session.keys_values, Tensor)
            cache.load(row, session.keys_values, length)
        logits = self._decoder.feed(
            cache, [session.tokens[length:] for session, length in zip(sessions, known, strict=True)]
        )

        def keep(i: int, row: int, reply: list[int]) -> None:
            session = sessions[i]
            session.tokens.extend(reply)
            session.cached, session.keys_values = session.tokens[: cache.lengths[row]], cache.save(row)

        return self._decoder.decode(cache, logits, uniform_noise(seeds, self.sampling.max_new_tokens), keep)

    def _branch(
        self, contexts: Sequence[Sequence[int]], rows: list[tuple[int, int]], seeds: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """Replies (i, j) to the contexts i; what contexts share at their beginning is read once."""
        if self._library:
            return self._library.branch(contexts, rows, seeds)
        distinct = sorted({i for i, _ in rows})
        own = [list(contexts[i]) for i in distinct]
        groups = shared_beginnings(own)
        firsts, others = [group[0][0] for group in groups], [member for group in groups for member in group[1:]]
        order = [*firsts, *(place for place, _ in others)]  # of the rows while contexts are read
        cache = self._decoder.rows([contexts[i] for i, _ in rows])
        cache.lengths = [0] * len(cache.lengths)
        logits = self._decoder.feed(cache, [own[place] for place in firsts])
        if others:
            for row, group in enumerate(groups):
                for place, shared in group[1:]:
                    cache.copy(row, order.index(place), min(shared, len(own[place]) - 1))  # its last has to be read
            new = [own[place][cache.lengths[order.index(place)] :] for place, _ in others]
            logits = torch.cat((logits, self._decoder.feed(cache, [[] for _ in firsts] + new)[len(firsts) :]))
        # replies in the order of their rows, and copied from the end, so that no row is overwritten before it is copied
        source = [order.index(distinct.index(i)) for i, _ in rows]
        by_source = sorted(range(len(rows)), key=source.__getitem__)
        for row in reversed(range(len(rows))):
            cache.move(source[by_source[row]], row)
        noise = uniform_noise([seeds[k] for k in by_source], self.sampling.max_new_tokens)
        found = self._decoder.decode(cache, logits[sorted(source)], noise, lambda i, row, reply: None)
        return [found[by_source.index(k)] for k in range(len(rows))]


def ends_of(model: Any) -> Sequence[int | None]:
    """The tokens at which the model's own settings end a text: Llama 3 names three."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return list(ends) if isinstance(ends, list | tuple) else [ends]


class RolloutSampler:
    """Draws replies from a copy of an `ExpressionPolicy` with the adapter merged in.

    A forward pass through LoRA on 4-bit weights costs twice that of the merged model in bfloat16, and sampling takes
    most of the time of a JPO step. To write the merged weights again after every update is cheap in comparison, so
    samples always come from the current policy.
    """

    def __init__(
        self,
        chat_format: ChatFormat,
        dtype: str,
        temperature: float,
        top_k: int | None,
        max_new_tokens: int,
        max_batch: int,
        device: str = "auto",
    ) -> None:
        """
        Args:
            dtype: of the merged copy, see `dtype_of`; `bfloat16` is fast where the device has it, `float32` exact.
            temperature, top_k, max_new_tokens, max_batch: see `ChatGenerator`.
            device: where the merged copy computes, see `device_of`.
        """
        self.chat_format, self.device = chat_format, device_of(device)
        self.dtype = dtype_of(dtype, self.device)
        self.temperature, self.top_k = temperature, top_k
        self.max_new_tokens, self.max_batch = max_new_tokens, max_batch
        self._model: Any = None
        self._generator: ChatGenerator | None = None

    def another(self) -> "RolloutSampler":
        """One with the same settings and no model yet."""
        settings = (self.temperature, self.top_k, self.max_new_tokens, self.max_batch, str(self.device))
        return RolloutSampler(self.chat_format, str(self.dtype).removeprefix("torch."), *settings)

    def refresh(self, policy: "ExpressionPolicy") -> None:
        """Take over the policy's weights; the first call makes the copy."""
        if self._generator is not None:
            with plain_weights(self._model):
                policy.merge_into(self._model)
            return
        self.take(policy.merged(self.dtype, self.device))

    def take(self, model: Any) -> None:
        """Speak with this model, whose linear layers are packed where that is of use."""
        self._model = model
        pack_linears(model)
        self._generator = ChatGenerator(
            self._model,
            self.chat_format.tokenizer,
            self.temperature,
            self.top_k,
            self.max_new_tokens,
            self.max_batch,
            stop_ids=self.chat_format.end_of_turn[:1],
        )

    def release(self) -> None:
        """Free the copy's memory; the next `refresh` makes another."""
        self._model = self._generator = None

    def sample(
        self, contexts: Sequence[Sequence[int]], count: int, seed: int, numbers: Sequence[int] | None = None
    ) -> list[list[list[int]]]:
        """`count` replies to every context, as token ids with their end, from the weights of the last `refresh`.

        Args:
            numbers: see `ChatGenerator.sample`.
        """
        return self.generator.sample(contexts, count, seed, numbers)

    @property
    def generator(self) -> ChatGenerator:
        """The generator with the weights of the last `refresh`."""
        if self._generator is None:
            raise ValueError("RolloutSampler: call refresh first")
        return self._generator

    def text(self, reply: list[int]) -> str:
        """The words of a reply."""
        return self.chat_format.text(reply)
