"""Sentinel probes: a judge is trusted for a batch only if it scored low, in that batch, what must score low.

A judge can go wrong as a whole: a server that answers 10 to everything, a model that was swapped, a history that talks
it into high scores. So an utterance that is bad everywhere is mixed into every batch, in the situation of one of its
requests and in no way different from them. If it scores above the limit, the whole batch is withheld: its judgements
are missing, with that reason. A probe that got no score says nothing about the judge, and withholds nothing.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from emodistill.errors import UserError
from emodistill.judges.examples import probes
from emodistill.judges.request import HIGHEST, LOWEST, Judge, Judgement, JudgeRequest, OnJudgement
from emodistill.language_models.completion import Usage


@dataclass
class _Batch:
    """The requests from `first` on that stand or fall with one probe, and what is known of them."""

    probe: Judgement | None = None
    waiting: list[tuple[int, Judgement]] = field(default_factory=list)
    bill: Usage = Usage()  # the probe's, until a judgement has taken it over


class ProbedJudge:
    """Any judge, with probes mixed into what it is asked.

    The probe goes first in its batch, and the batch's judgements are handed on when it is there. What a probe took is
    added to the usage of one judgement of its batch, so that the bill stays whole.

    Args:
        every: requests that share a probe; each batch costs one judgement more.
        limit: the highest score that a probe may get; 10 withholds nothing.

    Raises:
        UserError: if a setting has no meaning.
    """

    def __init__(self, judge: Judge, every: int = 32, limit: float = 4.0) -> None:
        if every < 1 or not LOWEST <= limit <= HIGHEST:
            raise UserError(f"judge: probes every={every} up to limit={limit}: give at least 1, and a score")
        self.judge_behind, self.every, self.limit = judge, every, limit
        recipe = hashlib.sha256(json.dumps([probes(), limit]).encode()).hexdigest()[:6]
        self.name, self.version = judge.name, f"{judge.version} probed {recipe}"

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement a request, in order; all of a batch are missing where its probe scored above the limit."""
        judgements: dict[int, Judgement] = {}
        announced: set[int] = set()
        asked, plan = self._mixed(requests)

        def tell(batch: _Batch) -> None:
            for place, judgement in batch.waiting:
                judgements[place] = self._released(batch, judgement)
                if on_judgement is not None:
                    on_judgement(place, judgements[place])
            batch.waiting.clear()

        def arrived(i: int, judgement: Judgement) -> None:
            batch, place = plan[i]
            announced.add(i)
            if place is None:
                batch.probe, batch.bill = judgement, judgement.usage
            else:
                batch.waiting.append((place, judgement))
            if batch.probe is not None:
                tell(batch)

        for i, judgement in enumerate(self.judge_behind.judge(asked, arrived)):
            if i not in announced:  # of a judge that announces nothing
                arrived(i, judgement)
        return [judgements[place] for place in range(len(requests))]

    def _mixed(self, requests: Sequence[JudgeRequest]) -> tuple[list[JudgeRequest], list[tuple[_Batch, int | None]]]:
        """What is asked, and for each of it the batch and the place of the request; no place is a probe's."""
        asked: list[JudgeRequest] = []
        plan: list[tuple[_Batch, int | None]] = []
        for first in range(0, len(requests), self.every):
            members, batch = requests[first : first + self.every], _Batch()
            asked += [_probe(members), *members]
            plan += [(batch, None), *((batch, first + i) for i in range(len(members)))]
        return asked, plan

    def _released(self, batch: _Batch, judgement: Judgement) -> Judgement:
        usage, batch.bill = together(judgement.usage, batch.bill), Usage()
        score = None if batch.probe is None else batch.probe.score
        if score is not None and score > self.limit:
            reason = f"withheld: an utterance that must not score above {self.limit:g} got {score:g} in the same batch"
            return Judgement(None, reason, judgement.raw, usage)
        return replace(judgement, usage=usage)


def _probe(members: Sequence[JudgeRequest]) -> JudgeRequest:
    """A probe in the situation of one of the members; which of both is a function of what the members say."""
    digest = hashlib.sha256("\0".join(request.utterance for request in members).encode("utf-8", "replace")).digest()
    situation, texts = members[digest[0] % len(members)], probes()
    return replace(situation, utterance=texts[digest[1] % len(texts)])


def together(*usages: Usage) -> Usage:
    """What several calls took in all; the cost is known where each of them that took something has one."""
    took = [usage for usage in usages if usage.attempts or usage.prompt_tokens or usage.completion_tokens]
    known = bool(took) and all(usage.cost is not None for usage in took)
    return Usage(
        sum(usage.prompt_tokens for usage in took),
        sum(usage.completion_tokens for usage in took),
        sum(usage.cost or 0.0 for usage in took) if known else None,
        max((usage.latency_s for usage in took), default=0.0),
        sum(usage.attempts for usage in took),
    )
