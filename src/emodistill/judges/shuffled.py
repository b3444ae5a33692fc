"""Scores that say nothing: those of a judge, or of a part of the reward, shuffled among the requests of a call.

They are the negative control of whatever learns from a judge: the scores have the same distribution, and on average no
correlation with what they are scores of. What still changes under them is drift, or chosen by luck.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from emodistill.judges.ledger import judgement_key
from emodistill.judges.request import Judge, Judgement, JudgeRequest, OnJudgement, Scorer, announced

Given = TypeVar("Given")


def shuffled(given: Sequence[Given], requests: Sequence[JudgeRequest], key: Callable[[JudgeRequest], str]) -> list[Given]:
    """What each request was given, dealt out anew by a permutation that the requests' keys alone decide.

    A permutation may leave a request with its own. That is meant: one that never did would give good replies less than
    others, which is information too.
    """

    def draw(role: str, place: int) -> bytes:
        return hashlib.sha256(f"{role} {key(requests[place])}".encode()).digest()

    takers = sorted(range(len(requests)), key=lambda place: draw("taker", place))
    givers = sorted(range(len(requests)), key=lambda place: draw("giver", place))
    dealt = dict(zip(takers, (given[place] for place in givers), strict=True))
    return [dealt[place] for place in range(len(requests))]


class ShuffledJudge:
    """Gives each request the score that a judge gave to one of its call; at least two requests are needed.

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
        return announced(shuffled(given, requests, lambda request: judgement_key(self, request)), on_judgement)


class ShuffledScorer:
    """The same of a part of the reward, which no ledger keeps; at least two requests are needed."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def scores(self, requests: Sequence[JudgeRequest]) -> list[float | None]:
        if len(requests) < 2:
            return [None] * len(requests)
        return shuffled(self.scorer.scores(requests), requests, _asked)


def _asked(request: JudgeRequest) -> str:
    return repr((request.scenario.id, len(request.history), request.emotion, request.utterance))
