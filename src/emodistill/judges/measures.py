"""What a set of scores says about the judge that gave them.

Shapes: N judgements; `levels` are 0 for bad, 1 for middling, 2 for good, `scores` have NaN where one is missing. A
missing score enters no figure but the share of missing ones.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import cohen_kappa_score

Scores = NDArray[np.float64]
Levels = NDArray[np.int64]
_RESAMPLES = 1000


def auc(scores: Scores, levels: Levels, high: int = 2, low: int = 0) -> float:
    """How often an utterance of the higher level scores above one of the lower, ties half; NaN where one is absent."""
    above, below = (scores[(levels == level) & ~np.isnan(scores)] for level in (high, low))
    if not len(above) or not len(below):
        return float("nan")
    ranks = rankdata(np.concatenate([above, below]))[: len(above)]  # the Mann-Whitney statistic, a tie counting half
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def auc_interval(scores: Scores, levels: Levels, situations: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC of good against bad, resampling situations."""
    rng, names = np.random.default_rng(seed), np.array(sorted(set(situations)))
    members = {name: np.flatnonzero(np.array(situations) == name) for name in names}
    drawn = []
    for _ in range(_RESAMPLES):
        rows = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        drawn.append(auc(scores[rows], levels[rows]))
    low, high = np.nanquantile(drawn, (0.025, 0.975)) if not np.isnan(drawn).all() else (np.nan, np.nan)
    return float(low), float(high)


def rank_correlation(scores: Scores, other: NDArray[np.float64] | Levels) -> float:
    """Spearman's rank correlation over the places where both are there; NaN where one of them is constant."""
    both = ~np.isnan(scores) & ~np.isnan(other.astype(float))
    if both.sum() < 3 or len(set(scores[both])) < 2 or len(set(other[both])) < 2:
        return float("nan")
    return float(spearmanr(scores[both], other[both]).statistic)


def agreement(scores: Scores, other: Scores) -> float:
    """Quadratically weighted kappa of two judges' scores, rounded to whole ones: 1 is the same, 0 what chance gives."""
    both = ~np.isnan(scores) & ~np.isnan(other)
    if not both.any():
        return float("nan")
    ours, theirs = (values[both].round().astype(int) for values in (scores, other))
    if len(set(ours)) == len(set(theirs)) == 1:
        return float("nan")
    return float(cohen_kappa_score(ours, theirs, weights="quadratic", labels=range(1, 11)))


def histogram(scores: Scores) -> list[int]:
    """How many scores round to 1, 2, ... 10."""
    counts = np.bincount(scores[~np.isnan(scores)].round().astype(int), minlength=11)
    return [int(count) for count in counts[1:11]]
