"""Sentinel probes: a batch of scores counts only if the judge scored low, in that batch, what must score low.

A judge can go wrong as a whole: a server that answers 10 to everything, a model that was swapped, a history that talks
it into high scores. So each batch gets a probe, an utterance that is bad everywhere, in the situation of one of its
requests and in no way different from them. If the probe scores above the limit, the whole batch is withheld: its
judgements are missing, with that reason. A probe that gets no score says nothing about the judge and withholds nothing.

The probe is asked first, but other scores of its batch may arrive before it. They have been paid for, so they are
announced at once as judgements with a `pending_score`, which the ledger stores. They count once the probe is there.
If the process ends before that, the ledger gives them back with the next request (`JudgeRequest.pending`), and only the
probe is asked.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from emodistill.checks import is_number, is_whole
from emodistill.errors import UserError
from emodistill.judges.examples import probes
from emodistill.judges.ledger import PART
from emodistill.judges.request import HIGHEST, LOWEST, Judge, Judgement, JudgeRequest, OnJudgement, add_usage
from emodistill.language_models.completion import Usage

PENDING = "pending: the probe of its batch has no answer yet"


class SentinelJudge:
    """Any judge, with probes mixed into what it is asked.

    The usage of a probe is added to that of one judgement of its batch, so that the bill stays whole.

    Args:
        every: requests that share a probe; each batch costs one judgement more.
        limit: the highest score that a probe may get; 10 withholds nothing.

    Raises:
        UserError: if a setting has no meaning.
    """

    def __init__(self, judge: Judge, every: int = 32, limit: float = 4.0) -> None:
        if not is_whole(every) or not is_number(limit, LOWEST, HIGHEST):
            raise UserError(
                f"judge: probes with every={every}, limit={limit}: use every of 1 or more, limit of 1 to 10"
            )
        self.judge_behind, self.every, self.limit = judge, every, limit
        recipe = hashlib.sha256(json.dumps([probes(), limit]).encode()).hexdigest()[:6]
        self.name, self.version = judge.name, f"{judge.version} probed {recipe}"

    @property
    def by_itself(self) -> str | None:
        """See `Judge`; parts must not divide those that share a probe."""
        found: str | None = getattr(self.judge_behind, "by_itself", None) if PART % self.every == 0 else None
        return found

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement per request, in order; all of a batch are missing where its probe scored above the limit."""
        asked, batch_of = self._with_probes(requests)
        answered: set[int] = set()
        judgements: dict[int, Judgement] = {}

        def arrived(i: int, answer: Judgement) -> None:
            answered.add(i)
            batch, place = batch_of[i]
            for index, judgement in batch.take(place, answer):
                before = judgements.get(index)  # the pending judgement, if there was one
                whole = judgement.usage if before is None else add_usage(before.usage, judgement.usage)
                judgements[index] = replace(judgement, usage=whole)
                if on_judgement is not None:
                    on_judgement(index, judgement)

        for i, answer in enumerate(self.judge_behind.judge(asked, arrived)):
            if i not in answered:  # by a judge that announces nothing
                arrived(i, answer)
        return [judgements[index] for index in range(len(requests))]

    def _with_probes(
        self, requests: Sequence[JudgeRequest]
    ) -> tuple[list[JudgeRequest], list[tuple["_Batch", int | None]]]:
        """What the judge behind is asked and, for each of these, the batch and the index of the request (probe: None).

        Requests with a pending score are not asked: only their probe is.
        """
        asked: list[JudgeRequest] = []
        batch_of: list[tuple[_Batch, int | None]] = []
        for first in range(0, len(requests), self.every):
            members = requests[first : first + self.every]
            batch = _Batch(self.limit, sum(member.pending is None for member in members))
            asked.append(_probe(members))
            batch_of.append((batch, None))
            for index, member in enumerate(members, first):
                if member.pending is not None:  # the ledger has its usage
                    batch.waiting[index] = Judgement(
                        member.pending.pending_score, None, member.pending.raw, parts=member.pending.parts
                    )
                else:
                    asked.append(member)
                    batch_of.append((batch, index))
        return asked, batch_of


@dataclass
class _Batch:
    """Requests that stand or fall with one probe.

    Attributes:
        to_come: requests that have no answer yet.
        probe: its judgement, once it is there.
        waiting: judgements that wait for the probe, by index of the request.
        unbilled: the probe's usage, until one judgement of the batch has taken it over.
    """

    limit: float
    to_come: int
    probe: Judgement | None = None
    waiting: dict[int, Judgement] = field(default_factory=dict)
    unbilled: Usage = Usage()

    def take(self, index: int | None, answer: Judgement) -> list[tuple[int, Judgement]]:
        """The answer to one request, or to the probe (index None); returns the judgements that can be announced now."""
        if index is None:
            self.probe, self.unbilled = answer, answer.usage
            waiting, self.waiting = self.waiting, {}
            return [(place, self._final(judgement)) for place, judgement in waiting.items()]
        self.to_come -= 1
        must_wait = self.to_come == 0 and not self.waiting  # or nobody would be left to take over the probe's usage
        if self.probe is not None or (answer.score is None and not must_wait):
            return [(index, self._final(answer))]
        if answer.score is None or not answer.usage.attempts:  # nothing was paid for: nothing would be lost
            self.waiting[index] = answer
            return []
        self.waiting[index] = replace(answer, usage=Usage())  # its usage is announced now
        return [(index, Judgement(None, PENDING, answer.raw, answer.usage, answer.score, answer.parts))]

    def _final(self, judgement: Judgement) -> Judgement:
        """The judgement as it counts, with the probe's usage where that is still open."""
        usage, self.unbilled = add_usage(judgement.usage, self.unbilled), Usage()
        probe_score = None if self.probe is None else self.probe.score
        if judgement.score is None or probe_score is None or probe_score <= self.limit:
            return replace(judgement, usage=usage)
        reason = (
            f"withheld: an utterance that must not score above {self.limit:g} got {probe_score:g} in the same batch"
        )
        return Judgement(None, reason, judgement.raw, usage)


def _probe(members: Sequence[JudgeRequest]) -> JudgeRequest:
    """A probe in the situation of one of the members; both choices are a function of the members' utterances."""
    digest = hashlib.sha256("\0".join(request.utterance for request in members).encode("utf-8", "replace")).digest()
    situation, texts = members[digest[0] % len(members)], probes()
    return replace(situation, utterance=texts[digest[1] % len(texts)], pending=None)
