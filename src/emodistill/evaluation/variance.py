"""Variance between training seeds apart from variance between scenarios (METHOD 7).

An arm's utility, trained with I seeds and played in J scenarios, as two crossed random effects: y_ij = mean + seed_i +
scenario_j + rest_ij, where the rest holds their interaction and the noise of episodes. The components are the
estimators of the analysis of variance (Searle, Casella and McCulloch 1992, Variance Components, chapter 4): unbiased,
in closed form, and the same as REML on complete data wherever none is negative. An iterative fit of a mixed model was
not taken: crossed effects are no plain case of statsmodels' MixedLM, and with two or three seeds it ends on the border.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from emodistill.evaluation.intervals import LEVEL, Interval
from emodistill.evaluation.statistics import Key


@dataclass(frozen=True)
class Components:
    """Where the spread of an arm's utility comes from; standard deviations in units of utility.

    Attributes:
        between_seeds: of what training with another seed changes.
        between_scenarios: of how hard scenarios are.
        rest: of the interaction of both and of single episodes, for the mean of one scenario's episodes.
        truncated: names of components whose estimate was negative and is given as 0.
        interval: 95 % for the mean over all training seeds and scenarios there might be, both drawn anew.
    """

    mean: float
    seeds: int
    scenarios: int
    between_seeds: float
    between_scenarios: float
    rest: float
    truncated: tuple[str, ...]
    interval: Interval


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
    return Components(
        mean=float(mean),
        seeds=seeds,
        scenarios=scenarios,
        **{name: float(np.sqrt(max(value, 0.0))) for name, value in variances.items()},
        truncated=tuple(name for name, value in variances.items() if value < 0),
        interval=_both_sources(float(mean), square_seed, square_scenario, rest, (seeds, scenarios)),
    )


def _both_sources(
    mean: float, square_seed: float, square_scenario: float, rest: float, shape: tuple[int, int]
) -> Interval:
    """t interval with the variance (MS_seed + MS_scenario - MS_rest) / IJ and Satterthwaite's degrees of freedom.

    Where the difference is smaller than the greater of the two squares alone, that one is taken: never narrower than
    the spread of seed means, or of scenario means, implies.
    """
    seeds, scenarios = shape
    total = square_seed + square_scenario - rest
    spread = (
        square_seed**2 / (seeds - 1) + square_scenario**2 / (scenarios - 1) + rest**2 / ((seeds - 1) * (scenarios - 1))
    )
    if total <= 0 or spread == 0:
        return mean, mean
    freedom = min(max(total**2 / spread, min(shape) - 1), max(shape) - 1)
    larger = max(total, square_seed, square_scenario)
    width = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * float(np.sqrt(larger / (seeds * scenarios)))
    return mean - width, mean + width
