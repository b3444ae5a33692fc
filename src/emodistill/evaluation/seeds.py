"""Several training seeds: what each of them reached, and the variance between them apart from that of scenarios."""

from collections.abc import Sequence
from typing import Any

from emodistill.evaluation.intervals import bootstrap_interval
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.report import plain
from emodistill.evaluation.results import Played
from emodistill.evaluation.statistics import Key, utilities
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
_PAIRED = (
    "Paired by training seed and scenario. The interval is about other training runs and other scenarios alike, where "
    "that of a comparison is about other scenarios and the training runs at hand. Not corrected for their number."
)
_DIFFERENCES = [
    Column("arm", "arm", "text"),
    Column("against", "against", "text"),
    Column("each", "difference with each training seed", "text"),
    Column("scenarios", "scenarios", "count"),
    Column("mean_interval", "difference [95 %, over seeds and scenarios]", "interval"),
    *_VARIANCE[4:],
]


def seed_tables(played: Sequence[Played], seed: int = 0, subject: str | None = None) -> list[Table]:
    """What several training seeds say; nothing where no arm has two.

    Args:
        subject: the arm whose differences to all others are shown.

    Returns:
        The tables `seeds` and `variance`, and with a subject `seed_differences`.
    """
    several = _with_several_seeds(played)
    if not several:
        return []
    each = [_seed_row(run, seed) for runs in several.values() for run in runs]
    spread = [
        {"arm": arm, "condition": condition, **row}
        for (arm, condition), runs in several.items()
        for row in _components({run.training_seed: utilities(run.episodes) for run in runs})
    ]
    note = (
        "Analysis of variance of utility by training seed and scenario, both as random effects, over the scenarios "
        "that all seeds played. The rest is interaction and the noise of episodes. An estimate below 0 is given as 0."
    )
    tables = [Table("seeds", "Each training seed", _SEEDS, each)]
    if spread:
        tables.append(Table("variance", "Spread between training seeds and scenarios", _VARIANCE, spread, note))
    if apart := _difference_rows(several, subject):
        tables.append(Table("seed_differences", "Differences over training seeds", _DIFFERENCES, apart, _PAIRED))
    return tables


def _with_several_seeds(played: Sequence[Played]) -> dict[tuple[str, str], list[Played]]:
    """The runs of each (arm, condition) that has at least two training seeds."""
    arms: dict[tuple[str, str], list[Played]] = {}
    for one in played:
        arms.setdefault((one.arm, one.condition), []).append(one)
    return {arm: runs for arm, runs in arms.items() if len({run.training_seed for run in runs}) > 1}


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


def _difference_rows(several: dict[tuple[str, str], list[Played]], subject: str | None) -> list[dict[str, Any]]:
    """The subject less every other arm, paired by training seed, scenario and seed of the episode."""
    rows = []
    for (arm, condition), runs in several.items():
        own = {run.training_seed: utilities(run.episodes) for run in several.get((str(subject), condition), [])}
        if arm == subject or not own:
            continue
        other = {run.training_seed: utilities(run.episodes) for run in runs}
        apart = {
            training: {key: own[training][key] - other[training][key] for key in own[training].keys() & other[training]}
            for training in own.keys() & other.keys()
        }
        for row in _components(apart):
            each = ", ".join(f"{values.mean():+.3f}" for values in crossed(dict(sorted(apart.items()))))
            rows.append({"arm": subject, "condition": condition, "against": arm, "each": each, **row})
    return rows


def _components(by_seed: dict[int, dict[Key, float]]) -> list[dict[str, Any]]:
    """The variance components of utilities or differences as a row; none where they cannot be estimated."""
    found = components(crossed(by_seed))
    if found is None:
        return []
    low, high = found.interval
    row = {
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
