"""Utterances for JPO with their scores: those of the corpus, or replies sampled from the policy a moment ago."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from emodistill.data.judged_chats import ContextBatch, JudgedBatch
from emodistill.errors import UserError
from emodistill.learners.advantages import group_advantages, is_degenerate
from emodistill.learners.jpo_memory import RunMemory, Scorer
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.tokens import Chats, pack_replies

Sample = tuple[str, str | None, str, float | None]  # the counterparty's words, emotion, utterance, score


class Sampler(Protocol):
    """Draws replies from the policy as it is now."""

    def refresh(self, policy: ExpressionPolicy) -> None:
        """Take over the policy's weights."""

    def sample(self, contexts: Sequence[Sequence[int]], count: int, seed: int) -> list[list[list[int]]]:
        """`count` replies to every context, as token ids with their end; fixed by weights, contexts and seed."""

    def text(self, reply: list[int]) -> str:
        """The words of a reply."""


class Rollout(NamedTuple):
    """Utterances with all that the objective needs of them; the lists are in utterance order."""

    chats: Chats
    ref_logprobs: Tensor  # (K,) float32
    scores: list[float | None]
    advantages: list[float | None]
    degenerate: int  # groups that say nothing about which of their utterances is better
    samples: list[Sample]


class Rollouts:
    """Makes rollouts; keeps what a run has to remember of them.

    The samples of a step are a function of the weights, the contexts and (seed, step, draw within the step), so a
    resumed run draws what the unbroken one would have drawn.
    """

    def __init__(self, judge: Scorer | None, sampler: Sampler | None, negative_weight: float) -> None:
        self.judge, self.sampler, self.negative_weight = judge, sampler, negative_weight
        self.memory = RunMemory()
        self._refreshed_at: int | None = None
        self._draws = (-1, 0)  # step, draws made in it

    def training_seed(self, seed: int, step: int) -> int:
        """A new seed for every draw; several are made in a step where gradients are accumulated."""
        self._draws = (step, self._draws[1] + 1 if self._draws[0] == step else 0)
        return _seed(seed, 0, *self._draws)

    @staticmethod
    def validation_seed(seed: int, batch: int) -> int:
        """The same at every validation, so that two of them differ by the weights alone."""
        return _seed(seed, 1, batch)

    def logged(self, policy: ExpressionPolicy, batch: JudgedBatch) -> Rollout:
        """The corpus's own utterances, each compared with all chosen turns of its scenario."""
        scores = self.memory.scores(self.judge, [item.group for item in batch.items])
        advantages = {name: group_advantages(known, self.negative_weight) for name, known in scores.items()}
        places = [(item.group, place) for item in batch.items for place in item.places]
        requests = [group.requests[place] for group, place in places]
        own = [scores[group.name][place] for group, place in places]
        samples = [
            (request.history[-1].text if request.history else "", request.emotion, request.utterance, score)
            for request, score in zip(requests, own, strict=True)
        ]
        degenerate = sum(map(is_degenerate, scores.values()))
        ours = [advantages[group.name][place] for group, place in places]
        return Rollout(batch.chats, self.memory.reference(policy, batch), own, ours, degenerate, samples)

    def sampled(self, policy: ExpressionPolicy, batch: ContextBatch, count: int, seed: int, step: int) -> Rollout:
        """`count` replies to each context, compared with one another."""
        if self.sampler is None or self.judge is None:
            raise UserError("JPO on sampled utterances needs a judge and a sampler; train on the corpus's own without")
        if self._refreshed_at != step:
            self.sampler.refresh(policy)
            self._refreshed_at = step
        contexts = [context.input_ids for context in batch.contexts]
        replies = self.sampler.sample(contexts, count, seed)
        texts = [[self.sampler.text(reply) for reply in own] for own in replies]
        told = [(context, text) for context, own in zip(batch.contexts, texts, strict=True) for text in own]
        scores = self.judge.scores([context.request(text) for context, text in told])
        groups = [scores[i : i + count] for i in range(0, len(scores), count)]
        advantages = [one for group in groups for one in group_advantages(group, self.negative_weight)]
        chats = pack_replies(contexts, replies, pad_id=0).to(policy.device)
        with policy.reference():
            ref_logprobs = policy(chats).logprobs
        samples = [(c.words, c.emotion, text, score) for (c, text), score in zip(told, scores, strict=True)]
        return Rollout(chats, ref_logprobs, scores, advantages, sum(map(is_degenerate, groups)), samples)

    def state(self) -> dict[str, Any]:
        return self.memory.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.memory.restore(state)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
