"""What another training seed changes: utility with its spread, where training ends, and the curves of training.

The spread between training seeds stands apart from that between scenarios: more scenarios do not make one training run
say more about the next one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emodistill.evaluation.metrics import valid
from emodistill.evaluation.results import ArmResult, distinct
from emodistill.evaluation.statistics import (
    Key,
    bootstrap_interval,
    components,
    correct,
    crossed,
    interquartile_mean,
    probability_of_improvement,
    utilities,
    verdict_of,
)
from emodistill.reporting.figures.curves import Curve, learning_curves
from emodistill.reporting.figures.intervals import differences
from emodistill.reporting.results import RULE, AnalysisResult, plain
from emodistill.reporting.tables import Column, Figure, Table
from emodistill.studies.comparisons import POOLED, arms_of

CURVES = ("val/fqe_value", "val/loss", "val/reward")  # of iql, sft and jpo
_FINAL = [
    Column("curve", "curve", "text"),
    Column("seeds", "training seeds", "count"),
    Column("mean", "mean of the last values", digits=3),
    Column("spread", "standard deviation between seeds", digits=3),
    Column("lowest", "lowest", digits=3),
    Column("highest", "highest", digits=3),
]


@dataclass(frozen=True)
class Stability:
    """What `seed_tables` shows of the arms, the last values of training, and its curves.

    Attributes:
        curves: names of scalars in TensorBoard.
        subject: the arm whose differences to the others are shown; where it was not played, the last.
        reference: a condition; the differences are then those of each other condition to it, arm by arm.
    """

    curves: Sequence[str] = CURVES
    subject: str = "emodistill"
    reference: str | None = None
    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        arms = arms_of(played)
        subject = self.subject if self.subject in arms else arms[-1]
        tables = seed_tables(played, self.seed, subject, self.reference)
        if not tables:
            return AnalysisResult(
                verdicts=["one training seed says nothing about the next one; play several with seeds=3"]
            )
        found = _curves(played, self.curves)
        figures = [
            *_differences_drawn(tables, self.reference),
            *([learning_curves("training", "Training with other seeds", found)] if found else []),
        ]
        verdicts = [*_verdicts(distinct(played)), *_apart(tables)]
        last = [_last(found)] if found else []
        return AnalysisResult([*tables, *last], figures, verdicts, summary=tables[0])


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
    Column("middle_interval", "interquartile mean [95 %]", "interval"),
    Column("between_seeds", "sd between seeds", digits=3),
    Column("between_scenarios", "sd between scenarios", digits=3),
    Column("rest", "sd of the rest", digits=3),
    Column("truncated", "negative, given as 0", "text"),
]
_PAIRED = (
    "Paired by training seed and scenario. The interval is about other training runs and other scenarios alike, where "
    "that of a comparison is about other scenarios and the training runs at hand. A verdict needs the interval on one "
    "side of 0 and, after Holm's correction over all rows, p below .05. The probability of improvement is how likely a "
    "training run of the arm does better in a scenario than one of another."
)
_DIFFERENCES = [
    Column("arm", "arm", "text"),
    Column("against", "against", "text"),
    Column("domain", "domain", "text"),
    Column("each", "difference with each training seed", "text"),
    Column("scenarios", "scenarios", "count"),
    Column("mean_interval", "difference [95 %, over seeds and scenarios]", "interval"),
    Column("p_value", "p", digits=4),
    Column("p_holm", "p (Holm)", digits=4),
    Column("verdict", "verdict", "text"),
    Column("better_interval", "probability of improvement [95 %]", "interval"),
    *_VARIANCE[5:],
]


def seed_tables(
    played: Sequence[ArmResult], seed: int = 0, subject: str | None = None, reference: str | None = None
) -> list[Table]:
    """What several training seeds say; nothing where no arm has two.

    Args:
        subject: the arm whose differences to all others are shown.
        reference: a condition, in place of a subject: the differences are those of each other condition to it.

    Returns:
        The tables `seeds` and `variance`, and with a subject or a reference `seed_differences`.
    """
    several = _with_several_seeds(played)
    if not several:
        return []
    each = [_seed_row(run, seed) for runs in several.values() for run in distinct(runs)]
    spread = []
    for (arm, condition), runs in several.items():
        for row in _components({run.training_seed: utilities(run.episodes) for run in runs}):
            middle = plain(interquartile_mean(_cells(runs), seed))
            untrained = {"seeds": 1, "between_seeds": None, "rest": None} if len(distinct(runs)) == 1 else {}
            spread.append({"arm": arm, "condition": condition, **row, "middle_interval": middle, **untrained})
    note = (
        "Analysis of variance of utility by training seed and scenario, both as random effects, over the scenarios "
        "that all seeds played. The rest is interaction and the noise of episodes. An estimate below 0 is given as 0. "
        "The interquartile mean is that of the middle half of all cells of training seed and scenario. An arm in which "
        "nothing is trained has been played once."
    )
    tables = [Table("seeds", "Each training seed", _SEEDS, each)]
    if spread:
        tables.append(Table("variance", "Spread between training seeds and scenarios", _VARIANCE, spread, note))
    if apart := _difference_rows(several, subject, reference, seed):
        tables.append(Table("seed_differences", "Differences over training seeds", _DIFFERENCES, apart, _PAIRED))
    return tables


def _with_several_seeds(played: Sequence[ArmResult]) -> dict[tuple[str, str], list[ArmResult]]:
    """The runs of each (arm, condition) that has at least two training seeds."""
    arms: dict[tuple[str, str], list[ArmResult]] = {}
    for one in played:
        arms.setdefault((one.arm, one.condition), []).append(one)
    return {arm: runs for arm, runs in arms.items() if len({run.training_seed for run in runs}) > 1}


def _seed_row(run: ArmResult, seed: int) -> dict[str, Any]:
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


def _cells(runs: Sequence[ArmResult], scenarios: set[tuple[str, str]] | None = None) -> np.ndarray:
    """(I, J) utility of each training seed in each scenario that all of them played, of the given ones."""
    found = {run.training_seed: utilities(run.episodes) for run in runs}
    kept = {
        seed: {key: value for key, value in own.items() if scenarios is None or key[:2] in scenarios}
        for seed, own in found.items()
    }
    return crossed(kept)


def _scenarios_of(runs: Sequence[ArmResult]) -> set[tuple[str, str]]:
    """The scenarios that all of these runs played."""
    return set.intersection(*({key[:2] for key in utilities(run.episodes)} for run in runs))


def _difference_rows(
    several: dict[tuple[str, str], list[ArmResult]], subject: str | None, reference: str | None, seed: int
) -> list[dict[str, Any]]:
    """The pairs of `_pairs`, each by training seed, scenario and seed of the episode.

    A row over all domains, and one for each where there are several.
    """
    rows: list[dict[str, Any]] = []
    for (first, condition), (second, beside) in _pairs(several, subject, reference):
        subjects, runs = several[first, condition], several[second, beside]
        names = (first, second) if reference is None else (f"{first}, {condition}", f"{second}, {beside}")
        common = _scenarios_of([*runs, *subjects])
        own, other = ({run.training_seed: utilities(run.episodes) for run in found} for found in (subjects, runs))
        domains = sorted({domain for domain, _ in common})
        for domain in [POOLED, *(domains if len(domains) > 1 else [])]:
            shared = {key for key in common if domain in (POOLED, key[0])}
            apart = {
                training: {
                    key: own[training][key] - other[training][key]
                    for key in sorted(own[training].keys() & other[training])  # sums in one order give the same bytes
                    if key[:2] in shared
                }
                for training in sorted(own.keys() & other.keys())
            }
            for row in _components(apart):
                each = ", ".join(f"{values.mean():+.3f}" for values in crossed(apart))
                better = probability_of_improvement(_cells(subjects, shared), _cells(runs, shared), seed)
                of_pair = {"against": names[1], "domain": domain, "each": each, "better_interval": plain(better)}
                verdict = {"verdict": verdict_of((row["low"], row["high"]))}
                rows.append({"arm": names[0], "condition": condition, **of_pair, **row, **verdict})
    correct(rows)
    return rows


def _pairs(
    several: Collection[tuple[str, str]], subject: str | None, reference: str | None
) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """The subject with every other arm of its condition, or every condition with the reference, arm by arm."""
    if reference is not None:
        pairs = [((arm, condition), (arm, reference)) for arm, condition in several if condition != reference]
        return [(one, other) for one, other in pairs if other in several]
    pairs = [((str(subject), condition), (arm, condition)) for arm, condition in several if arm != subject]
    return [(one, other) for one, other in pairs if one in several]


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
        "p_value": found.p_value,
        "truncated": ", ".join(name.replace("_", " ") for name in found.truncated),
    }
    return [dict(plain(row))]


def _curves(played: Sequence[ArmResult], names: Sequence[str]) -> list[Curve]:
    """The named curves of every training, each once: a stage that conditions share is linked into all of them."""
    several = len({one.condition for one in played}) > 1
    found, known = list[Curve](), set[Path]()
    for run_dir, seed, condition in dict.fromkeys((one.run_dir, one.training_seed, one.condition) for one in played):
        for stage in sorted(path for path in Path(run_dir).glob("*/tensorboard") if path.is_dir()):
            if stage.resolve() not in known:
                known.add(stage.resolve())
                panel = f"{stage.parent.name} ({condition})" if several and condition else stage.parent.name
                found += curves_of(stage, panel, f"seed {seed}", names)
    return found


def curves_of(folder: Path, panel: str, label: str, names: Sequence[str]) -> list[Curve]:
    """The named curves in a folder of TensorBoard files; those that are not in it give none."""
    events = EventAccumulator(str(folder)).Reload()
    found = []
    for name in (name for name in names if name in events.Tags()["scalars"]):
        points = sorted({event.step: event.value for event in events.Scalars(name)}.items())
        steps, values = zip(*points, strict=True)
        found.append(Curve(f"{panel}: {name}", label, list(steps), list(values)))
    return found


def _last(curves: Sequence[Curve]) -> Table:
    rows: list[dict[str, Any]] = []
    for panel in dict.fromkeys(curve.panel for curve in curves):
        ends = np.array([curve.values[-1] for curve in curves if curve.panel == panel])
        spread = float(ends.std(ddof=1)) if len(ends) > 1 else float("nan")
        summary = {
            "mean": float(ends.mean()),
            "spread": spread,
            "lowest": float(ends.min()),
            "highest": float(ends.max()),
        }
        rows.append({"curve": panel, "seeds": len(ends), **summary})
    note = "The last value that was logged, whichever checkpoint was kept."
    return Table("training_ends", "Where training ends", _FINAL, rows, note)


def _differences_drawn(tables: Sequence[Table], reference: str | None) -> list[Figure]:
    """The table of differences as a picture: a row for each rival, or for each arm beside the reference."""
    rows = [row for table in tables if table.name == "seed_differences" for row in table.rows]
    drawn = [
        {
            "domain": row["domain"],
            "against": row["arm"] if reference else ", ".join(filter(None, (row["against"], row["condition"]))),
            "difference_interval": row["mean_interval"],
            "p_holm": row["p_holm"],
        }
        for row in rows
    ]
    arms = "each condition" if reference else " and ".join(dict.fromkeys(row["arm"] for row in rows))
    rest = reference or "each other arm"
    figure = differences(drawn, f"Utility of {arms} minus that of {rest}, over training seeds and scenarios")
    return [figure] if figure else []


def _verdicts(played: Sequence[ArmResult]) -> list[str]:
    lines = [
        f"{RULE} a difference counts where its interval over training seeds and scenarios leaves out 0 and p (Holm) is "
        "below 0.05; the spread between training seeds is reported, not tested."
    ]
    for arm, condition in dict.fromkeys((one.arm, one.condition) for one in played):
        means = [
            float(np.mean([episode.utility for episode in one.episodes if episode.end != "invalid"]))
            for one in played
            if (one.arm, one.condition) == (arm, condition) and one.episodes
        ]
        if len(means) > 1:
            spread = float(np.std(means, ddof=1))
            name = f"{arm}, {condition}" if condition else arm
            lines.append(
                f"{name}: mean utility {np.mean(means):.3f} over {len(means)} training seeds, from {min(means):.3f} to "
                f"{max(means):.3f} (standard deviation {spread:.3f})."
            )
    return lines


def _apart(tables: Sequence[Table]) -> list[str]:
    """A sentence for each comparison: over all domains, and in which of them it holds."""
    rows = [row for table in tables if table.name == "seed_differences" for row in table.rows]
    lines = []
    for row in (row for row in rows if row["domain"] == POOLED):
        mean, low, high = row["mean_interval"]
        pair = (row["arm"], row["against"], row["condition"])
        single = [one for one in rows if one["domain"] != POOLED]
        own = [one for one in single if (one["arm"], one["against"], one["condition"]) == pair]
        by_verdict = {
            verdict: ", ".join(one["domain"] for one in own if one["verdict"] == verdict)
            for verdict in dict.fromkeys(one["verdict"] for one in own)
        }
        where = "".join(f"; {verdict} in {domains}" for verdict, domains in by_verdict.items())
        lines.append(
            f"{row['arm']} minus {row['against']}: {mean:+.3f} [{low:+.3f}, {high:+.3f}] over training seeds and "
            f"scenarios, {row['verdict']}{where}; with each seed {row['each']}."
        )
    return lines
