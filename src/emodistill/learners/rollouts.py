"""Utterances for JPO with their scores: those of the corpus, or replies sampled from the policy a moment ago."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from emodistill.data.judged_chats import ContextBatch, JudgedBatch
from emodistill.errors import UserError
from emodistill.learners.advantages import group_advantages, is_degenerate
from emodistill.learners.jpo_memory import RunMemory
from emodistill.learners.live_judging import Judging, LiveJudge, Scorer
from emodistill.learners.replies import Drawn, Replies, Sampler
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.tokens import Chats

Sample = tuple[str, str | None, str, float | None]  # the counterparty's words, emotion, utterance, score


class Rollout(NamedTuple):
    """Utterances with all that the objective needs of them; the lists are in utterance order."""

    chats: Chats
    ref_logprobs: Tensor  # (K,) float32
    scores: list[float | None]
    advantages: list[float | None]
    degenerate: int  # groups that say nothing about which of their utterances is better
    skipped: int  # groups with too few scores
    samples: list[Sample]
    unnamed: float | None = None  # share of replies that name no emotion; None where none has to


class Rollouts:
    """Makes rollouts; keeps what a run has to remember of them."""

    def __init__(self, judge: Scorer | None, sampler: Sampler | None, negative_weight: float, judging: Judging) -> None:
        self.judge = None if judge is None else LiveJudge(judge, judging.timeout_s)
        self.replies = Replies(self.judge, sampler, judging.look_ahead)
        self.negative_weight, self.min_group, self.patience = negative_weight, judging.min_group, judging.patience
        self.memory = RunMemory()
        self._silent = 0  # batches in a row without any score

    def logged(self, policy: ExpressionPolicy, batch: JudgedBatch) -> Rollout:
        """The corpus's own utterances, each compared with all chosen turns of its scenario."""
        scores = self.memory.scores(self.judge, [item.group for item in batch.items])
        advantages = {name: self._advantages(group, self.min_group) for name, group in scores.items()}
        places = [(item.group, place) for item in batch.items for place in item.places]
        requests = [group.requests[place] for group, place in places]
        own = [scores[group.name][place] for group, place in places]
        samples = [
            (request.history[-1].text if request.history else "", request.emotion, request.utterance, score)
            for request, score in zip(requests, own, strict=True)
        ]
        ours = [advantages[group.name][place] for group, place in places]
        counts = self._counts(list(scores.values()), self.min_group)
        self._listen(own)
        return Rollout(batch.chats, self.memory.reference(policy, batch), own, ours, *counts, samples)

    def sampled(self, policy: ExpressionPolicy, batch: ContextBatch, count: int, seed: int, step: int) -> Rollout:
        """`count` replies to each context, compared with one another."""
        drawn = self.replies.draw(policy, batch, count, seed, step)
        return self.judged(drawn, self.reference(policy, drawn), min(self.min_group, count))

    @staticmethod
    def reference(policy: ExpressionPolicy, drawn: Drawn) -> Tensor:
        """Log-probabilities of the replies' tokens under the reference, (K,) float32."""
        with policy.reference():
            logprobs: Tensor = policy(drawn.chats).logprobs
        return logprobs

    def judged(self, drawn: Drawn, ref_logprobs: Tensor, min_group: int) -> Rollout:
        """The replies with their scores, which are waited for here."""
        assert self.judge is not None  # or else nothing could have been drawn
        found = self.judge.collect(drawn.asked)
        if found:  # a judge that nobody asked is not silent
            self._listen(found)
        scores = drawn.placed(found)
        groups = [scores[i : i + drawn.count] for i in range(0, len(scores), drawn.count)]
        advantages = [one for group in groups for one in self._advantages(group, min_group)]
        samples = [(c.words, c.emotion, text, score) for (c, text), score in zip(drawn.told, scores, strict=True)]
        counts = self._counts(groups, min_group)
        naming = any(context.names is not None for context, _ in drawn.told)
        unnamed = len(drawn.unasked) / len(drawn.told) if naming else None
        return Rollout(drawn.chats, ref_logprobs, scores, advantages, *counts, samples, unnamed)

    def _listen(self, scores: Sequence[float | None]) -> None:
        """A judge that says nothing for long is gone: going on would end in an adapter that learnt nothing."""
        self._silent = 0 if known(scores) else self._silent + 1
        if self.patience is not None and self._silent >= self.patience:
            raise UserError(
                f"the judge gave no score to {self._silent} batches in a row, and the log says why; see to it and run "
                "the same command again, or set learner.judging.patience"
            )

    def _advantages(self, scores: Sequence[float | None], min_group: int) -> list[float | None]:
        if known(scores) < min_group:
            return [None] * len(scores)  # as if nobody had been asked
        return group_advantages(scores, self.negative_weight)

    @staticmethod
    def _counts(groups: Sequence[Sequence[float | None]], min_group: int) -> tuple[int, int]:
        """Degenerate groups among those that are large enough, and the others."""
        enough = [group for group in groups if known(group) >= min_group]
        return sum(map(is_degenerate, enough)), len(groups) - len(enough)

    def state(self) -> dict[str, Any]:
        return self.memory.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.memory.restore(state)


def known(scores: Sequence[float | None]) -> int:
    """How many of the scores are there."""
    return sum(score is not None for score in scores)
