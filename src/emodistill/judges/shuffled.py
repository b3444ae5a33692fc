"""A judge whose scores say nothing: those of another judge, shuffled among the requests of a call.

It is the negative control of whatever learns from a judge: the scores have the same distribution, and on average no
correlation with what they are scores of. What still changes under it is drift, or chosen by luck.
"""

import hashlib
from collections.abc import Sequence

from emodistill.judges.ledger import judgement_key
from emodistill.judges.request import Judge, Judgement, JudgeRequest, OnJudgement, announced


class ShuffledJudge:
    """Gives each request the score that a judge gave to one of its call, by a permutation that keys alone decide.

    A permutation may leave a request with its own score. That is meant: one that never did would give good replies less
    than others, which is information too. At least two requests are needed.

    Args:
        judge: the judge whose scores are shuffled; it costs nothing to ask.
    """

    by_call = True

    def __init__(self, judge: Judge) -> None:
        self.judged_by = judge
        self.name = f"shuffled {judge.name}"
        self.version = f"1 of {judge.version}"
        self.plays_on = getattr(judge, "plays_on", False)

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement per request, in order; none for a single request."""
        if len(requests) < 2:
            alone = [Judgement(None, "a single score cannot be shuffled") for _ in requests]
            return announced(alone, on_judgement)
        given = self.judged_by.judge(requests)
        places = range(len(requests))
        takers = sorted(places, key=lambda place: self._draw("taker", requests[place]))
        givers = sorted(places, key=lambda place: self._draw("giver", requests[place]))
        dealt = dict(zip(takers, (given[place] for place in givers), strict=True))
        return announced([dealt[place] for place in places], on_judgement)

    def _draw(self, role: str, request: JudgeRequest) -> bytes:
        return hashlib.sha256(f"{role} {judgement_key(self, request)}".encode()).digest()
