"""What the analyses of all studies are made of: utilities picked by arm, condition and domain, and their comparison.

Training seeds are averaged before anything is compared, so that one scenario stays one unit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emodistill.data.schema import Episode
from emodistill.evaluation.results import ArmResult, distinct
from emodistill.evaluation.statistics import Difference, Key, bootstrap_interval, paired_difference, utilities
from emodistill.reporting.tables import Column

POOLED = "all"  # the row over all domains together
COMPARED = [
    Column("difference_interval", "difference [95 %]", "interval", 3),
    Column("effect_size", "effect size"),
    Column("p_value", "p", digits=4),
    Column("p_holm", "p (Holm)", digits=4),
    Column("detectable", "smallest detectable", digits=3),
    Column("pairs", "pairs", "count"),
    Column("scenarios", "scenarios", "count"),
    Column("verdict", "verdict", "text"),
]


def arms_of(played: Sequence[ArmResult]) -> list[str]:
    return list(dict.fromkeys(one.arm for one in played))


def conditions_of(played: Sequence[ArmResult]) -> list[str]:
    return list(dict.fromkeys(one.condition for one in played))


def domains_of(played: Sequence[ArmResult]) -> list[str]:
    return sorted({episode.scenario.domain for one in played for episode in one.episodes})


def chosen(played: Sequence[ArmResult], arm: str | None = None, condition: str | None = None) -> list[Episode]:
    """Episodes of an arm in a condition, of all training seeds, each once; None takes any."""
    return [
        episode
        for one in distinct(played)
        if arm in (None, one.arm) and condition in (None, one.condition)
        for episode in one.episodes
    ]


def utility(
    played: Sequence[ArmResult], arm: str | None = None, condition: str | None = None, domain: str = POOLED
) -> dict[Key, float]:
    """Utility by (domain, scenario, seed), the mean over training seeds."""
    found = utilities(chosen(played, arm, condition))
    return {key: value for key, value in found.items() if domain in (POOLED, key[0])}


def mean_interval(found: Mapping[Key, float], seed: int = 0) -> tuple[float, float, float]:
    """Mean utility with its 95 % interval over scenarios; nan without any."""
    values = list(found.values())
    if not values:
        return float("nan"), float("nan"), float("nan")
    return float(np.mean(values)), *bootstrap_interval(values, [key[:2] for key in found], seed, unseen=0.0)


def compared(first: Mapping[Key, float], second: Mapping[Key, float], seed: int = 0) -> dict[str, Any]:
    """The cells of `COMPARED` for `first` minus `second`, before Holm's correction."""
    return described(paired_difference(first, second, seed))


def described(found: Difference) -> dict[str, Any]:
    """The cells of `COMPARED`, before Holm's correction."""
    return {
        "difference": found.mean,
        "difference_interval": [found.mean, *found.interval],
        "effect_size": found.effect_size,
        "p_value": found.p_value,
        "detectable": found.detectable,
        "pairs": found.pairs,
        "scenarios": found.scenarios,
        "verdict": found.verdict,
    }
