"""Sentinel probes: a judge is trusted for a batch only if it scored low, in that batch, what must score low.

A judge can go wrong as a whole: a server that answers 10 to everything, a model that was swapped, a history that talks
it into high scores. So an utterance that is bad everywhere is mixed into every batch, in the situation of one of its
requests and in no way different from them. If it scores above the limit, the whole batch is withheld: its judgements
are missing, with that reason. A probe that got no score says nothing about the judge, and withholds nothing.

A score that arrives before its probe is held: whoever listens is told of it at once, as one that does not count yet,
and may give it back with the request in a later call. Then only the probe is asked.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from emodistill.errors import UserError
from emodistill.judges.examples import probes
from emodistill.judges.request import HIGHEST, LOWEST, Judge, Judgement, JudgeRequest, OnJudgement
from emodistill.language_models.completion import Usage

HELD = "held: the probe of its batch has no answer yet"


@dataclass
class _Batch:
    """Requests that stand or fall with one probe, and what is known of them."""

    to_come: int  # members that have no judgement yet
    probe: Judgement | None = None
    waiting: dict[int, Judgement] = field(default_factory=dict)
    bill: Usage = Usage()  # the probe's, until a judgement has taken it over


class _Call:
    """What one call hears from the judge behind, and what it hands on."""

    def __init__(self, limit: float, on_judgement: OnJudgement | None) -> None:
        self.limit, self.on_judgement = limit, on_judgement
        self.judgements: dict[int, Judgement] = {}
        self._told: set[int] = set()  # the requests whose bill, but for the probe's, the listener has

    def take_back(self, batch: _Batch, place: int, earlier: Judgement) -> None:
        """A score that an earlier call paid for, told of, and did not get to count."""
        self._told.add(place)
        batch.waiting[place] = Judgement(earlier.held, None, earlier.raw)

    def take(self, batch: _Batch, place: int | None, judgement: Judgement) -> None:
        """The answer to a request of the batch, or to its probe, which has no place."""
        if place is None:
            batch.probe, batch.bill = judgement, judgement.usage
            for held in list(batch.waiting):
                self._settle(batch, held, batch.waiting.pop(held))
            return
        batch.to_come -= 1
        bears_bill = batch.to_come == 0 and not batch.waiting  # or nobody would be left to take over the probe's
        if batch.probe is not None or (judgement.score is None and not bears_bill):
            self._settle(batch, place, judgement)
        else:
            self._hold(batch, place, judgement)

    def _hold(self, batch: _Batch, place: int, judgement: Judgement) -> None:
        batch.waiting[place] = judgement
        paid = judgement.usage.attempts > 0  # what was free is not worth keeping
        if self.on_judgement is not None and judgement.score is not None and paid:
            self._told.add(place)
            self.on_judgement(place, Judgement(None, HELD, judgement.raw, judgement.usage, judgement.score))

    def _settle(self, batch: _Batch, place: int, judgement: Judgement) -> None:
        """The last word on a request; the listener gets the part of its bill that is news."""
        final, whole = self._verdict(batch.probe, judgement), together(judgement.usage, batch.bill)
        news, batch.bill = batch.bill if place in self._told else whole, Usage()
        self.judgements[place] = replace(final, usage=whole)
        if self.on_judgement is not None:
            self.on_judgement(place, replace(final, usage=news))

    def _verdict(self, probe: Judgement | None, judgement: Judgement) -> Judgement:
        score = None if probe is None else probe.score
        if judgement.score is None or score is None or score <= self.limit:
            return judgement
        reason = f"withheld: an utterance that must not score above {self.limit:g} got {score:g} in the same batch"
        return Judgement(None, reason, judgement.raw)


class SentinelJudge:
    """Any judge, with probes mixed into what it is asked.

    The probe goes first in its batch, and the batch's scores wait for it. What a probe took is added to the usage of
    one judgement of its batch, so that the bill stays whole.

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
        call = _Call(self.limit, on_judgement)
        asked = self._mixed(requests, call)
        heard: set[int] = set()

        def arrived(i: int, judgement: Judgement) -> None:
            heard.add(i)
            _, batch, place = asked[i]
            call.take(batch, place, judgement)

        for i, judgement in enumerate(self.judge_behind.judge([request for request, *_ in asked], arrived)):
            if i not in heard:  # of a judge that announces nothing
                arrived(i, judgement)
        return [call.judgements[place] for place in range(len(requests))]

    def _mixed(self, requests: Sequence[JudgeRequest], call: _Call) -> list[tuple[JudgeRequest, _Batch, int | None]]:
        """What is asked, each with its batch and the place of the request; no place is a probe's."""
        asked: list[tuple[JudgeRequest, _Batch, int | None]] = []
        for first in range(0, len(requests), self.every):
            members = requests[first : first + self.every]
            batch = _Batch(sum(member.held is None for member in members))
            asked.append((_probe(members), batch, None))
            for place, member in enumerate(members, first):
                if member.held is None:
                    asked.append((member, batch, place))
                else:
                    call.take_back(batch, place, member.held)
        return asked


def _probe(members: Sequence[JudgeRequest]) -> JudgeRequest:
    """A probe in the situation of one of the members; which of both is a function of what the members say."""
    digest = hashlib.sha256("\0".join(request.utterance for request in members).encode("utf-8", "replace")).digest()
    situation, texts = members[digest[0] % len(members)], probes()
    return replace(situation, utterance=texts[digest[1] % len(texts)], held=None)


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
