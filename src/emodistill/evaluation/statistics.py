"""Intervals and comparisons with scenarios as the unit (METHOD 7).

Episodes of one scenario are not independent, so resampling draws whole scenarios. Notation for shapes: S scenarios.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emodistill.data.schema import Episode
from emodistill.evaluation.metrics import valid

RESAMPLES = 10_000
Key = tuple[str, str, int]  # domain, scenario, seed


@dataclass(frozen=True)
class Difference:
    """How much better the first arm is than the second, over pairs of (scenario, seed).

    Attributes:
        mean: mean difference of utility.
        interval: 95 % bootstrap interval over scenarios.
        effect_size: mean over standard deviation of the scenario differences (Cohen's d_z); nan where all are equal.
        p_value: two-sided, by flipping the signs of scenario differences.
        pairs: number of paired episodes.
        scenarios: number of scenarios that they are of; one alone has no spread, so nothing follows from it.
    """

    mean: float
    interval: tuple[float, float]
    effect_size: float
    p_value: float
    pairs: int
    scenarios: int

    @property
    def verdict(self) -> str:
        if self.scenarios < 2:
            return "within noise"
        if self.interval[0] > 0:
            return "exceeds"
        return "below" if self.interval[1] < 0 else "within noise"


def bootstrap_interval(
    values: Sequence[float], scenarios: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of the mean, resampling scenarios; (nan, nan) without values."""
    if not len(values):
        return float("nan"), float("nan")
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for value, scenario in zip(values, scenarios, strict=True):
        groups[scenario].append(value)
    totals = np.array([sum(group) for group in groups.values()])  # (S,)
    counts = np.array([len(group) for group in groups.values()])  # (S,)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=resamples)  # (resamples, S)
    means = (weights @ totals) / (weights @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def utilities(episodes: Sequence[Episode]) -> dict[Key, float]:
    """Utility of each valid episode, by (domain, scenario, seed)."""
    return {(e.scenario.domain, e.scenario.id, e.seed): e.utility for e in valid(episodes)}


def paired_difference(first: Mapping[Key, float], second: Mapping[Key, float], seed: int = 0) -> Difference:
    """Compare two arms over the (domain, scenario, seed) that both have."""
    keys = sorted(first.keys() & second.keys())
    differences = [first[key] - second[key] for key in keys]
    scenarios = [key[:2] for key in keys]
    if not keys:
        return Difference(float("nan"), (float("nan"), float("nan")), float("nan"), float("nan"), 0, 0)
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for scenario, difference in zip(scenarios, differences, strict=True):
        groups[scenario].append(difference)
    means = np.array([float(np.mean(group)) for group in groups.values()])  # (S,)
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return Difference(
        float(np.mean(differences)),
        bootstrap_interval(differences, scenarios, seed),
        float(means.mean()) / spread if spread > 0 else float("nan"),
        sign_flip_p(means, seed),
        len(keys),
        len(means),
    )


def sign_flip_p(differences: np.ndarray, seed: int = 0, flips: int = RESAMPLES) -> float:
    """Two-sided p-value of mean 0 under exchange of the two arms within each scenario; (S,) -> scalar."""
    signs = 2.0 * np.random.default_rng(seed).integers(0, 2, size=(flips, len(differences)), dtype=np.int8) - 1.0
    null = np.abs(signs @ differences)
    return float((1 + (null >= abs(differences.sum()) - 1e-12).sum()) / (1 + flips))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for a family of tests, in the order given; nan is no test and stays nan."""
    tests = [index for index in np.argsort(p_values).tolist() if not np.isnan(p_values[index])]
    corrected, running = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(tests):
        running = max(running, min(1.0, (len(tests) - rank) * p_values[index]))
        corrected[index] = running
    return corrected
