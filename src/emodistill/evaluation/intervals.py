"""95 % intervals of means with scenarios as the unit (METHOD 7); docs/statistics.md has the measured coverage.

Episodes of one scenario are not independent, so resampling draws whole scenarios. A plain percentile interval of few
units is too narrow twice over: the bootstrap's variance is that of a sample, (S - 1) / S of what it should be, and its
quantiles take that variance as known. Both are known factors, so the bootstrap distribution is stretched by them:
sqrt(S / (S - 1)) and t / z (after Hesterberg 2015, "What Teachers Should Know About the Bootstrap", The American
Statistician 69(4), who widens the tail probabilities by the same amounts; with five scenarios that runs into the
largest mean that five values can have). Notation for shapes: S scenarios, B resamples.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95
Interval = tuple[float, float]
UNKNOWN: Interval = (float("nan"), float("nan"))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    scenarios: Sequence[Hashable] | np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    unseen: float | None = None,
) -> Interval:
    """95 % interval of the mean of `values`, resampling their scenarios.

    Args:
        values: one an episode; scenarios with more episodes weigh more.
        scenarios: of each value.
        unseen: for shares and utilities in [0, 1]: what a scenario of a kind that was not seen would yield, e.g. 0 for
            a failed deal. Five deals in five scenarios do not show that deals never fail; one scenario with this
            value is therefore added to the sample, and the two tails are read apart. Without it the interval is
            symmetric about the mean (Hall 1988, JRSS B 50), which is right for differences.

    Returns:
        (low, high); (nan, nan) without values, and for a single scenario, which has no spread, unless `unseen` is set.
    """
    totals, counts = per_scenario(values, scenarios)
    if unseen is not None and len(totals):
        totals, counts = np.append(totals, unseen * counts.mean()), np.append(counts, counts.mean())
    if len(totals) < 2:
        return UNKNOWN
    means = resampled_means(totals, counts, seed, resamples)  # (B,)
    low, high = stretched(means, totals.sum() / counts.sum(), len(totals), symmetric=unseen is None)
    return (float(low), float(high)) if unseen is None else (max(float(low), 0.0), min(float(high), 1.0))


def per_scenario(
    values: Sequence[float] | np.ndarray, scenarios: Sequence[Hashable] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each scenario, in the order in which scenarios first appear; two of (S,)."""
    rows: dict[Hashable, int] = {}
    index = [rows.setdefault(scenario, len(rows)) for scenario in scenarios]
    given = np.asarray(values, dtype=np.float64)
    return np.bincount(index, given, len(rows)), np.bincount(index, minlength=len(rows)).astype(np.float64)


def resampled_means(totals: np.ndarray, counts: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means over episodes of resampled scenarios; two of (S,), S of at least 2 -> (B,)."""
    found = stats.bootstrap(
        (totals, counts),
        lambda total, count, axis: total.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )
    distribution: np.ndarray = found.bootstrap_distribution
    return distribution


def stretched(distribution: np.ndarray, estimate: np.ndarray | float, units: int, symmetric: bool) -> np.ndarray:
    """Ends of the stretched interval; (..., B) and (...) -> (2, ...) low and high."""
    alpha, centre = 1 - LEVEL, np.asarray(estimate)
    factor = stats.t.ppf(1 - alpha / 2, units - 1) / stats.norm.ppf(1 - alpha / 2) * np.sqrt(units / (units - 1))
    away = distribution - centre[..., None]  # (..., B)
    if symmetric:
        width = factor * np.quantile(np.abs(away), LEVEL, axis=-1)
        return np.stack([centre - width, centre + width])
    ends: np.ndarray = centre + factor * np.quantile(away, [alpha / 2, 1 - alpha / 2], axis=-1)
    return ends
