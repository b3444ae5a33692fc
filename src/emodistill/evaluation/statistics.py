"""Intervals, comparisons and variances with scenarios as the unit; docs/statistics.md has the measured coverage.

**Intervals.** Episodes of one scenario are not independent, so resampling draws whole scenarios. A plain percentile
interval of few units is too narrow twice over: the bootstrap's variance is that of a sample, (S - 1) / S of what it
should be, and its quantiles take that variance as known. Both are known factors, so the bootstrap distribution is
stretched by them: sqrt(S / (S - 1)) and t / z (after Hesterberg 2015, "What Teachers Should Know About the Bootstrap",
The American Statistician 69(4), who widens the tail probabilities by the same amounts; with five scenarios that runs
into the largest mean that five values can have).

**Comparisons.** Paired differences of two arms, permutation tests by flipping the signs of scenarios, Holm's
correction, and the smallest difference that could have been found.

**Variances.** The spread between training seeds stands apart from that between scenarios. An arm's utility, trained
with I seeds and played in J scenarios, is two crossed random effects: y_ij = mean + seed_i + scenario_j + rest_ij,
where the rest holds their interaction and the noise of episodes. The components are the estimators of the analysis of
variance (Searle, Casella and McCulloch 1992, Variance Components, chapter 4): unbiased, in closed form, and the same
as REML on complete data wherever none is negative. An iterative fit of a mixed model was not taken: crossed effects
are no plain case of statsmodels' MixedLM, and with two or three seeds it ends on the border.

Notation for shapes: S scenarios, B resamples.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from emodistill.data.schema import Episode
from emodistill.evaluation.metrics import valid

RESAMPLES = 10_000
CROSSED_RESAMPLES = 2_000  # of training seeds and scenarios together
DRAWN_AT_ONCE = 10_000_000  # units; bounds the memory of a bootstrap over many
LEVEL = 0.95
Interval = tuple[float, float]
UNKNOWN: Interval = (float("nan"), float("nan"))
EXCEEDS = "exceeds"  # the verdict where the first of two is better
NOISE = "within noise"  # the verdict where nothing can be told apart
ALPHA, POWER = 0.05, 0.8
FEW = 8  # fewer scenarios than this: the interval of a difference holds less often than it says (docs/statistics.md)
Key = tuple[str, str, int]  # domain, scenario, seed


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
            value is therefore added to the sample, and the two tails are read apart. Where it and all
            values are 0, resampling yields 0 alone, and the high end is the exact binomial one (Clopper and Pearson
            1934). Without it the interval is symmetric about the mean (Hall 1988, JRSS B 50), which is right for
            differences.

    Returns:
        (low, high); (nan, nan) without values, and for a single scenario, which has no spread, unless `unseen` is set.
    """
    totals, counts = per_scenario(values, scenarios)
    if unseen == 0 and len(totals) and not totals.any():
        return 0.0, 1.0 - ((1.0 - LEVEL) / 2) ** (1 / len(totals))
    if unseen is not None and len(totals):
        totals, counts = np.append(totals, unseen * counts.mean()), np.append(counts, counts.mean())
    if len(totals) < 2:
        return UNKNOWN
    means = _resampled((totals, counts), _ratio, seed, resamples)  # (B,)
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


def statistic_interval(
    columns: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """A statistic of units with its 95 % interval, resampling units; symmetric about the statistic.

    Args:
        columns: numbers of each unit, each (S,).
        statistic: of such columns along their last axis, (..., S) each -> (...); nan where a sample has none. It is
            called as `statistic(*columns, axis=-1)`.

    Returns:
        (statistic, low, high); the interval is nan for fewer than two units, or where no resample has the statistic.
    """
    found = float(statistic(*columns, axis=-1))
    if len(columns[0]) < 2 or not math.isfinite(found):
        return found, *UNKNOWN
    drawn = _resampled(columns, statistic, seed, resamples)
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return found, *UNKNOWN
    low, high = stretched(known, found, len(columns[0]), symmetric=True)
    return found, float(low), float(high)


def _resampled(
    columns: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], seed: int, resamples: int
) -> np.ndarray:
    """The statistic of resampled units; columns of (S,), S of at least 2 -> (B,)."""
    with warnings.catch_warnings():  # samples without the statistic are the caller's to leave out
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            tuple(columns),
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=resamples,
            batch=max(1, DRAWN_AT_ONCE // len(columns[0])),
            rng=np.random.default_rng(seed),
        )
    distribution: np.ndarray = found.bootstrap_distribution
    return distribution


def _ratio(total: np.ndarray, count: np.ndarray, axis: int) -> np.ndarray:
    """Mean over episodes of the scenarios along an axis."""
    mean: np.ndarray = total.sum(axis=axis) / count.sum(axis=axis)
    return mean


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


@dataclass(frozen=True)
class Difference:
    """How much better the first arm is than the second, over pairs of (domain, scenario, seed).

    Attributes:
        mean: mean difference of utility.
        interval: 95 % interval, resampling scenarios.
        effect_size: mean over standard deviation of the scenario differences (Cohen's d_z); nan where all are equal.
        p_value: two-sided, by flipping the signs of scenario differences.
        pairs: number of paired episodes.
        scenarios: number of scenarios that they are of; one alone has no spread, so nothing follows from it.
        detectable: the smallest true difference that this many scenarios, as spread as these, show with power 0.8.
    """

    mean: float
    interval: Interval
    effect_size: float
    p_value: float
    pairs: int
    scenarios: int
    detectable: float

    @property
    def verdict(self) -> str:
        """What the interval alone says."""
        return NOISE if self.scenarios < 2 else verdict_of(self.interval)


def verdict_of(interval: Interval) -> str:
    """On which side of 0 the interval of a difference lies."""
    if interval[0] > 0:
        return EXCEEDS
    return "below" if interval[1] < 0 else NOISE


NO_PAIRS = Difference(float("nan"), UNKNOWN, float("nan"), float("nan"), 0, 0, float("nan"))


def utilities(episodes: Sequence[Episode]) -> dict[Key, float]:
    """Utility of each valid episode, by (domain, scenario, seed); the mean of several that share these."""
    found: dict[Key, list[float]] = {}
    for episode in valid(episodes):
        found.setdefault(key_of(episode), []).append(episode.utility)
    return {key: sum(values) / len(values) for key, values in found.items()}


def key_of(episode: Episode) -> Key:
    """What pairs an episode of one arm with that of another."""
    return episode.scenario.domain, episode.scenario.id, episode.seed


def paired_difference(
    first: Mapping[Key, float], second: Mapping[Key, float], seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Compare two arms over the (domain, scenario, seed) that both have."""
    keys = sorted(first.keys() & second.keys())
    if not keys:
        return NO_PAIRS
    differences = [first[key] - second[key] for key in keys]
    scenarios = [key[:2] for key in keys]
    totals, counts = per_scenario(differences, scenarios)
    means = totals / counts  # (S,)
    spread = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    return Difference(
        float(np.mean(differences)),
        bootstrap_interval(differences, scenarios, seed, resamples),
        float(means.mean()) / spread if spread > 0 else float("nan"),
        sign_flip_p(totals, seed, resamples),
        len(keys),
        len(means),
        spread * detectable_effect(len(means)),
    )


def sign_flip_p(differences: np.ndarray, seed: int = 0, flips: int = RESAMPLES) -> float:
    """Two-sided p-value of no difference under exchange of the two arms within each scenario; (S,) -> scalar.

    Exact where all 2^S patterns are fewer than `flips`, so five scenarios can never give less than 2/32 = .0625.
    """
    if len(differences) < 2:
        return 1.0  # one sign: both patterns are as extreme as the one found
    found = stats.permutation_test(
        (differences,),
        lambda values, axis: values.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=flips,
        batch=flips,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


@lru_cache
def detectable_effect(scenarios: int) -> float:
    """Effect size d_z that a paired two-sided t-test at .05 finds with power 0.8; nan below two scenarios."""
    if scenarios < 2:
        return float("nan")
    return float(TTestPower().solve_power(nobs=scenarios, alpha=ALPHA, power=POWER, alternative="two-sided"))


def correct(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's correction over all rows of a table, in place: `p_holm` from `p_value`.

    Where a row has a `verdict`, which its interval gave, it stands if the corrected p is below .05 as well; what could
    not be tested (nan) decides nothing.
    """
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = corrected
        if "verdict" in row and not corrected < ALPHA:
            row["verdict"] = NOISE


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for a family of tests, in the order given; nan is no test and stays nan."""
    given = np.asarray(p_values, dtype=np.float64)
    tests = ~np.isnan(given)
    if tests.any():
        given[tests] = multipletests(given[tests], ALPHA, method="holm")[1]
    corrected: list[float] = given.tolist()
    return corrected


@dataclass(frozen=True)
class Components:
    """Where the spread of an arm's utility comes from; standard deviations in units of utility.

    Attributes:
        between_seeds: of what training with another seed changes.
        between_scenarios: of how hard scenarios are.
        rest: of the interaction of both and of single episodes, for the mean of one scenario's episodes.
        truncated: names of components whose estimate was negative and is given as 0.
        interval: 95 % for the mean over all training seeds and scenarios there might be, both drawn anew.
        p_value: two-sided, that this mean is 0; of the same t distribution as the interval.
    """

    mean: float
    seeds: int
    scenarios: int
    between_seeds: float
    between_scenarios: float
    rest: float
    truncated: tuple[str, ...]
    interval: Interval
    p_value: float


def crossed(by_seed: Mapping[int, Mapping[Key, float]]) -> np.ndarray:
    """Mean utility of each training seed in each scenario that all of them played; (I, J), J may be 0."""
    tables = []
    for utilities in by_seed.values():
        scenarios: dict[tuple[str, str], list[float]] = {}
        for (domain, scenario, _), value in utilities.items():
            scenarios.setdefault((domain, scenario), []).append(value)
        tables.append({scenario: sum(values) / len(values) for scenario, values in scenarios.items()})
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    return np.array([[table[scenario] for scenario in shared] for table in tables], dtype=np.float64)


def components(values: np.ndarray) -> Components | None:
    """Variance components of (I, J) utilities; None below two training seeds or two scenarios."""
    if values.ndim != 2 or min(values.shape) < 2:
        return None
    seeds, scenarios = values.shape
    mean, by_seed, by_scenario = values.mean(), values.mean(1), values.mean(0)
    residual = values - by_seed[:, None] - by_scenario + mean
    square_seed = scenarios * float(by_seed.var(ddof=1))
    square_scenario = seeds * float(by_scenario.var(ddof=1))
    rest = float((residual**2).sum()) / ((seeds - 1) * (scenarios - 1))
    variances = {
        "between_seeds": (square_seed - rest) / scenarios,
        "between_scenarios": (square_scenario - rest) / seeds,
        "rest": rest,
    }
    interval, p_value = _both_sources(float(mean), square_seed, square_scenario, rest, (seeds, scenarios))
    return Components(
        mean=float(mean),
        seeds=seeds,
        scenarios=scenarios,
        **{name: float(np.sqrt(max(value, 0.0))) for name, value in variances.items()},
        truncated=tuple(name for name, value in variances.items() if value < 0),
        interval=interval,
        p_value=p_value,
    )


def _both_sources(
    mean: float, square_seed: float, square_scenario: float, rest: float, shape: tuple[int, int]
) -> tuple[Interval, float]:
    """t interval, and p-value that the mean is 0.

    Their variance is (MS_seed + MS_scenario - MS_rest) / IJ, with Satterthwaite's degrees of freedom. Where the
    difference is smaller than the greater of the two squares alone, that one is taken: never narrower than the spread
    of seed means, or of scenario means, implies.
    """
    seeds, scenarios = shape
    total = square_seed + square_scenario - rest
    spread = (
        square_seed**2 / (seeds - 1) + square_scenario**2 / (scenarios - 1) + rest**2 / ((seeds - 1) * (scenarios - 1))
    )
    if spread == 0:
        return (mean, mean), float(mean == 0)
    freedom = min(max(total**2 / spread, min(shape) - 1), max(shape) - 1) if total > 0 else min(shape) - 1
    larger = max(total, square_seed, square_scenario) if total > 0 else rest
    error = float(np.sqrt(larger / (seeds * scenarios)))
    width = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return (mean - width, mean + width), float(2 * stats.t.sf(abs(mean) / error, freedom))


def interquartile_mean(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean of the middle half of (I, J) utilities, with its 95 % interval over training seeds and scenarios.

    A few runs that fail or shine move it less than the mean, and it uses more of them than the median.

    Source:
        Agarwal et al. 2021, https://arxiv.org/abs/2108.13264
    """
    return _over_both([values], lambda own: float(stats.trim_mean(own, 0.25, axis=None)), seed)


def probability_of_improvement(first: np.ndarray, second: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """How likely a training run of the first does better in a scenario than one of the second, with its 95 % interval.

    The mean over scenarios of the share of pairs of runs in which the first is better; equal utilities count a half.
    Above .5 with its interval the first is better more often than not, which says nothing about how much.

    Args:
        first, second: utilities, (I, J) and (K, J), of the same scenarios in the same order.

    Source:
        Agarwal et al. 2021, section 4.3, https://arxiv.org/abs/2108.13264
    """

    def share(one: np.ndarray, other: np.ndarray) -> float:
        apart = one[:, None] - other[None]
        return float(((apart > 0) + 0.5 * (apart == 0)).mean())

    found, low, high = _over_both([first, second], share, seed)
    return found, max(low, 0.0), min(high, 1.0)  # nan as first argument stays


def _over_both(tables: Sequence[np.ndarray], statistic: Callable[..., float], seed: int) -> tuple[float, float, float]:
    """A statistic of (seeds, scenarios) tables with its 95 % interval, from resampling both, scenarios in common.

    To resample rows and columns apart is on the safe side for crossed effects (Owen 2007, The pigeonhole bootstrap)
    where there are many of both. Training seeds are few, so the distribution is stretched for their number. Equal rows
    are those of an arm in which nothing is trained, and do not count as seeds.
    """
    found = statistic(*tables)
    scenarios = tables[0].shape[1]
    if scenarios < 2 or min(len(table) for table in tables) < 2:
        return found, *UNKNOWN
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(CROSSED_RESAMPLES):
        columns = rng.integers(scenarios, size=scenarios)
        drawn.append(statistic(*(table[rng.integers(len(table), size=len(table))][:, columns] for table in tables)))
    units = min([scenarios, *(len(table) for table in tables if (table != table[0]).any())])
    low, high = stretched(np.array(drawn), found, units, symmetric=False)
    return found, float(low), float(high)
