"""Several training seeds: what each of them reached, and the variance between them apart from that of scenarios."""

from collections.abc import Sequence
from typing import Any

from emodistill.evaluation.intervals import bootstrap_interval
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.report import plain
from emodistill.evaluation.results import Played
from emodistill.evaluation.statistics import utilities
from emodistill.evaluation.variance import components, crossed
from emodistill.reporting.table import Column, Table

_SEEDS = [
    Column("arm", "arm", "text"),
    Column("training_seed", "training seed", "count"),
    Column("episodes", "episodes", "count"),
    Column("scenarios", "scenarios", "count"),
    Column("utility_interval", "utility [95 %, over scenarios]", "interval"),
]
_VARIANCE = [
    Column("arm", "arm", "text"),
    Column("seeds", "training seeds", "count"),
    Column("scenarios", "scenarios", "count"),
    Column("mean_interval", "utility [95 %, over seeds and scenarios]", "interval"),
    Column("between_seeds", "sd between seeds", digits=3),
    Column("between_scenarios", "sd between scenarios", digits=3),
    Column("rest", "sd of the rest", digits=3),
    Column("truncated", "negative, given as 0", "text"),
]


def seed_tables(played: Sequence[Played], seed: int = 0) -> list[Table]:
    """Tables `seeds` and `variance` for the arms with at least two training seeds; none where no arm has them."""
    arms: dict[tuple[str, str], list[Played]] = {}
    for one in played:
        arms.setdefault((one.arm, one.condition), []).append(one)
    several = {arm: runs for arm, runs in arms.items() if len({run.training_seed for run in runs}) > 1}
    if not several:
        return []
    each = [_seed_row(run, seed) for runs in several.values() for run in runs]
    spread = [row for (arm, condition), runs in several.items() for row in _variance_rows(arm, condition, runs)]
    note = (
        "Analysis of variance of utility by training seed and scenario, both as random effects, over the scenarios "
        "that all seeds played. The rest is interaction and the noise of episodes. An estimate below 0 is given as 0."
    )
    tables = [Table("seeds", "Each training seed", _SEEDS, each)]
    if spread:
        tables.append(Table("variance", "Spread between training seeds and scenarios", _VARIANCE, spread, note))
    return tables


def _seed_row(run: Played, seed: int) -> dict[str, Any]:
    counted = valid(run.episodes)
    values = [episode.utility for episode in counted]
    scenarios = [(episode.scenario.domain, episode.scenario.id) for episode in counted]
    low, high = bootstrap_interval(values, scenarios, seed, unseen=0.0)
    mean = sum(values) / len(values) if values else float("nan")
    row = {
        "arm": run.arm,
        "condition": run.condition,
        "training_seed": run.training_seed,
        "episodes": len(values),
        "scenarios": len(set(scenarios)),
        "utility": mean,
        "low": low,
        "high": high,
        "utility_interval": [mean, low, high],
    }
    return dict(plain(row))


def _variance_rows(arm: str, condition: str, runs: Sequence[Played]) -> list[dict[str, Any]]:
    found = components(crossed({run.training_seed: utilities(run.episodes) for run in runs}))
    if found is None:
        return []
    low, high = found.interval
    row = {
        "arm": arm,
        "condition": condition,
        "seeds": found.seeds,
        "scenarios": found.scenarios,
        "utility": found.mean,
        "low": low,
        "high": high,
        "mean_interval": [found.mean, low, high],
        "between_seeds": found.between_seeds,
        "between_scenarios": found.between_scenarios,
        "rest": found.rest,
        "truncated": ", ".join(name.replace("_", " ") for name in found.truncated),
    }
    return [dict(plain(row))]
