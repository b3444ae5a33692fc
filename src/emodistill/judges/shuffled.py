"""Scores that say nothing: those of a judge, or of a part of the reward, shuffled among the requests of a call.

They are the negative control of whatever learns from a judge: the scores have the same distribution, and on average no
correlation with what they are scores of. What still changes under them is drift, or chosen by luck.
"""

import hashlib
from collections.abc import Callable, Sequence

from emodistill.judges.request import JudgeRequest, Scorer


class ShuffledScores:
    """Gives each request the score of one of its call, by a permutation that the requests alone decide.

    A permutation may leave a request with its own score. That is meant: one that never did would give good replies less
    than others, which is information too. A request that comes alone gets no score.

    Args:
        scorer: gives the scores: a judge behind its ledger, which keeps them as they are, or a part of the reward.
    """

    by_call = True

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def scores(
        self, requests: Sequence[JudgeRequest], on_score: Callable[[int, float | None], None] | None = None
    ) -> list[float | None]:
        """One score a request, in order; `on_score` hears of them once all are there."""
        places = range(len(requests))
        takers = sorted(places, key=lambda place: _draw("taker", requests[place]))
        givers = sorted(places, key=lambda place: _draw("giver", requests[place]))
        given = self.scorer.scores(requests) if len(requests) > 1 else [None] * len(requests)
        dealt = dict(zip(takers, (given[place] for place in givers), strict=True))
        if on_score is not None:
            for place in places:
                on_score(place, dealt[place])
        return [dealt[place] for place in places]


def _draw(role: str, request: JudgeRequest) -> bytes:
    said = [turn.text for turn in request.history]
    return hashlib.sha256(repr((role, request.scenario.id, said, request.emotion, request.utterance)).encode()).digest()
