"""Replies that the policy gives now: sampled, put to the judge, and drawn ahead where that changes nothing.

They are judged in the background while the next ones are drawn. All batches of one optimizer step are spoken by the
same weights, so those that are still to come in the step may be drawn ahead; those of the next step may not, for they
have to come from the policy as it will be then. Drawn ahead or not, the replies are the same.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from emodistill.data.contexts import ChatContext
from emodistill.data.judged_chats import ContextBatch
from emodistill.errors import UserError
from emodistill.learners.live_judging import Asked, LiveJudge
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.tokens import Chats, pack_replies


class Sampler(Protocol):
    """Draws replies from the policy as it is now."""

    def refresh(self, policy: ExpressionPolicy) -> None:
        """Take over the policy's weights."""

    def sample(self, contexts: Sequence[Sequence[int]], count: int, seed: int) -> list[list[list[int]]]:
        """`count` replies to every context, as token ids with their end; fixed by weights, contexts and seed."""

    def text(self, reply: list[int]) -> str:
        """The words of a reply."""


@dataclass(frozen=True)
class Drawn:
    """Replies to the contexts of a batch, whose scores are on their way.

    Attributes:
        unasked: places of replies that the judge was not asked about, for they name no emotion and had to.
    """

    batch: ContextBatch
    step: int
    told: list[tuple[ChatContext, str]]  # context and reply, `count` replies a context
    count: int
    chats: Chats
    asked: Asked
    unasked: frozenset[int] = frozenset()

    def placed(self, scores: Sequence[float | None]) -> list[float | None]:
        """The judge's scores in the order of `told`; missing where it was not asked."""
        given = iter(scores)
        return [None if place in self.unasked else next(given) for place in range(len(self.told))]


class Replies:
    """Draws replies, at most `look_ahead` batches ahead.

    The replies of a step are a function of the weights, the contexts and (seed, step, draw within the step), so a
    resumed run draws what the unbroken one would have drawn.
    """

    def __init__(self, judge: LiveJudge | None, sampler: Sampler | None, look_ahead: int) -> None:
        self.judge, self.sampler, self.look_ahead = judge, sampler, look_ahead
        self._refreshed_at: int | None = None
        self._draws = (-1, 0)  # step, draws made in it
        self._ahead: deque[Drawn] = deque()

    def forget(self) -> None:
        """Drop what was drawn ahead and never used: training begins, or goes on elsewhere."""
        self._ahead.clear()
        self._draws = (-1, 0)

    def training_seed(self, seed: int, step: int) -> int:
        """A new seed for every draw; several are made in a step where gradients are accumulated."""
        self._draws = (step, self._draws[1] + 1 if self._draws[0] == step else 0)
        return _seed(seed, 0, *self._draws)

    @staticmethod
    def validation_seed(seed: int, batch: int) -> int:
        """The same at every validation, so that two of them differ by the weights alone."""
        return _seed(seed, 1, batch)

    def upcoming(
        self, policy: ExpressionPolicy, batch: ContextBatch, count: int, seed: int, step: int, left: int
    ) -> Drawn:
        """Replies to the next batch of training, which may have been drawn ahead; and draws others ahead.

        Args:
            left: batches that come after this one in the same optimizer step.
        """
        if self._ahead and self._ahead[0].step != step:
            self._ahead.clear()  # foreseen, but the epoch was cut short; and the weights have moved
        wanted = [batch, *islice(batch.following(), min(left, self.look_ahead))]
        for coming in wanted[len(self._ahead) :]:
            self._ahead.append(self.draw(policy, coming, count, self.training_seed(seed, step), step))
        drawn = self._ahead.popleft()
        if [id(context) for context in drawn.batch.contexts] != [id(context) for context in batch.contexts]:
            raise ValueError("the batch is not the one that the loader announced")
        return drawn

    def draw(self, policy: ExpressionPolicy, batch: ContextBatch, count: int, seed: int, step: int) -> Drawn:
        """Speak, and ask the judge; does not wait for it."""
        if self.sampler is None or self.judge is None:
            raise UserError("JPO on sampled utterances needs a judge and a sampler; train on the corpus's own without")
        if self._refreshed_at != step:
            self.sampler.refresh(policy)
            self._refreshed_at = step
        contexts = [context.input_ids for context in batch.contexts]
        replies = self.sampler.sample(contexts, count, seed)
        texts = [[self.sampler.text(reply) for reply in own] for own in replies]
        told = [(context, text) for context, own in zip(batch.contexts, texts, strict=True) for text in own]
        requests = [context.request(text) for context, text in told]
        asked = self.judge.ask([request for request in requests if request is not None])
        unasked = frozenset(place for place, request in enumerate(requests) if request is None)
        if not self.look_ahead:
            self.judge.collect(asked)
        chats = pack_replies(contexts, replies, pad_id=0).to(policy.device)
        return Drawn(batch, step, told, count, chats, asked, unasked)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
