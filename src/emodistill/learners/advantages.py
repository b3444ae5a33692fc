"""From judge scores to advantages: how much better an utterance is than the others of its group."""

import statistics
from collections.abc import Sequence

LIMIT = 10.0
SAME = 1e-6  # scores closer than this are the same score; they are on a scale from 1 to 10


def group_advantages(scores: Sequence[float | None], negative_weight: float) -> list[float | None]:
    """(score - mean) / std over the scores that are there, clipped to ±10, negative ones times `negative_weight`.

    A missing score stays missing: it takes no part in mean and std and has no advantage. Where fewer than two scores
    are left, or all are the same, nothing can be said and every advantage is 0. The standard deviation is that of the
    group itself (divided by n).
    """
    known = [score for score in scores if score is not None]
    if is_degenerate(scores):
        return [None if score is None else 0.0 for score in scores]
    mean, std = statistics.fmean(known), statistics.pstdev(known)

    def advantage(score: float) -> float:
        clipped = min(max((score - mean) / std, -LIMIT), LIMIT)
        return clipped * negative_weight if clipped < 0 else clipped

    return [None if score is None else advantage(score) for score in scores]


def is_degenerate(scores: Sequence[float | None]) -> bool:
    """Whether a group says nothing about which of its utterances is better."""
    known = [score for score in scores if score is not None]
    return len(known) < 2 or max(known) - min(known) < SAME
