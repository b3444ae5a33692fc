"""Comparisons of two arms with scenarios as the unit: paired differences, permutation tests, Holm, power (METHOD 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from emodistill.data.schema import Episode
from emodistill.evaluation.intervals import RESAMPLES, UNKNOWN, Interval, bootstrap_interval, per_scenario
from emodistill.evaluation.metrics import valid

__all__ = [
    "RESAMPLES",
    "Difference",
    "bootstrap_interval",
    "correct",
    "holm",
    "paired_difference",
    "sign_flip_p",
    "utilities",
]

NOISE = "within noise"  # the verdict where nothing can be told apart
ALPHA, POWER = 0.05, 0.8
FEW = 8  # fewer scenarios than this: the interval of a difference holds less often than it says (docs/statistics.md)
Key = tuple[str, str, int]  # domain, scenario, seed


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
        if self.scenarios < 2:
            return NOISE
        if self.interval[0] > 0:
            return "exceeds"
        return "below" if self.interval[1] < 0 else NOISE


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
