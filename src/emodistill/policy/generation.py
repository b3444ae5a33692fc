"""Batched generation for many chats at once, each with its attention cache kept from round to round.

A `Session` is a chat's tokens, which its owner may edit, and the cache of a prefix of them. Before a reply, whatever of
the history the cache does not hold any more or not yet is fed; so the cache can never disagree with what was really
said, and a round costs its own tokens, not those of the rounds before.

The noise of a reply is a function of its seed alone: one uniform number a token, turned into a token by the inverse of
the cumulative distribution. So the same seed gives the same reply whatever else is in the batch, except where float
arithmetic that depends on the batch tips a choice: rare in float32, now and then in bfloat16.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emodistill.errors import UserError
from emodistill.policy.decoding import Decoder, Sampling
from emodistill.policy.kv_cache import context_limit
from emodistill.policy.sampling import uniform_noise


@dataclass(eq=False)
class Session:
    """One chat under way.

    Attributes:
        tokens: everything said so far. It may be edited freely between two calls, and decides.
        cached: the tokens whose keys and values `keys_values` holds.
        keys_values: (layers, 2, H, len(cached), D), or None.
    """

    tokens: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    keys_values: Tensor | None = None

    def reusable(self) -> int:
        """How many tokens need not be fed again: the common beginning, less the last, whose output is needed."""
        common = 0
        for said, held in zip(self.tokens[:-1], self.cached, strict=False):
            if said != held:
                break
            common += 1
        return common


class ChatGenerator:
    """Samples replies for many chats with one model.

    Attributes:
        context: the most tokens a chat may have, its next reply included.
        read, written: tokens fed and tokens sampled so far; what the cache still held was not fed again.
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
            model: a causal language model of transformers with plain attention in every layer.
            temperature, top_k, max_new_tokens: see `Sampling`.
            max_batch: most rows in one forward pass; more chats are split.
            stop_ids: tokens that end a reply, besides the tokenizer's end of sequence.

        Raises:
            UserError: if a setting has no meaning, or the model's attention does not fit the cache.
        """
        if max_batch < 1:
            raise UserError(f"max_batch={max_batch}: must be at least 1")
        stops = {*stop_ids, tokenizer.eos_token_id} - {None}
        self.sampling, self.max_batch = Sampling(temperature, top_k, max_new_tokens, frozenset(stops)), max_batch
        self.name, self.context = str(model.name_or_path), context_limit(model)
        self._decoder = Decoder(model, self.sampling)
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
            ValueError: if a chat leaves no room in the model's context; the owner has to shorten it.
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
    def sample(self, contexts: Sequence[Sequence[int]], count: int, seed: int) -> list[list[list[int]]]:
        """`count` independent replies to each context, which is fed once for all of them in a batch.

        Reply j to context i depends on (seed, i, j) alone. See `extend_and_sample` for what a reply holds.
        """
        for context in contexts:
            self._check_length(len(context))
        numbered = [(i, j) for i in range(len(contexts)) for j in range(count)]
        replies: list[list[list[int]]] = [[] for _ in contexts]
        for first in range(0, len(numbered), self.max_batch):
            chunk = numbered[first : first + self.max_batch]
            for (i, _), reply in zip(chunk, self._branch(contexts, chunk, seed), strict=True):
                replies[i].append(reply)
        return replies

    def _check_length(self, tokens: int) -> None:
        if not 0 < tokens <= self.context - self.sampling.max_new_tokens:
            raise ValueError(f"a chat of {tokens} tokens and a reply do not fit a context of {self.context}")

    def _continue(self, sessions: list[Session], seeds: list[int]) -> list[list[int]]:
        cache, known = self._decoder.rows([session.tokens for session in sessions]), [s.reusable() for s in sessions]
        for row, (session, length) in enumerate(zip(sessions, known, strict=True)):
            cache.load(row, session.keys_values, length)
        logits = self._decoder.feed(
            cache, [session.tokens[length:] for session, length in zip(sessions, known, strict=True)]
        )

        def park(owner: int, row: int, reply: list[int]) -> None:
            session = sessions[owner]
            session.tokens.extend(reply)
            session.cached, session.keys_values = session.tokens[: cache.lengths[row]], cache.save(row)

        return self._decoder.decode(cache, logits, uniform_noise(seeds, self.sampling.max_new_tokens), park)

    def _branch(self, contexts: Sequence[Sequence[int]], rows: list[tuple[int, int]], seed: int) -> list[list[int]]:
        distinct = sorted({i for i, _ in rows})
        cache = self._decoder.rows([contexts[i] for i, _ in rows])
        cache.lengths = [0] * len(cache.lengths)
        logits = self._decoder.feed(cache, [list(contexts[i]) for i in distinct])
        source = [distinct.index(i) for i, _ in rows]
        for row in reversed(range(len(rows))):  # from the end, where no row is the source of one that is still to come
            cache.move(source[row], row)
        noise = uniform_noise([(seed, *row) for row in rows], self.sampling.max_new_tokens)
        return self._decoder.decode(cache, logits[source], noise, lambda owner, row, reply: None)
