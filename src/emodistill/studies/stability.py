"""What another training seed changes: final metrics with their spread, and the curves of training.

The spread between training seeds stands apart from that between scenarios: more scenarios do not make one training run
say more about the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emodistill.evaluation.results import Findings, Played
from emodistill.evaluation.seeds import seed_tables
from emodistill.reporting.figures.curves import Curve, learning_curves
from emodistill.reporting.table import Column, Table
from emodistill.studies.estimates import arms_of

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
        subject: the arm whose differences to the others are shown; None takes the last.
    """

    curves: Sequence[str] = CURVES
    subject: str | None = None
    seed: int = 0

    def __call__(self, played: Sequence[Played]) -> Findings:
        tables = seed_tables(played, self.seed, self.subject or arms_of(played)[-1])
        if not tables:
            return Findings(verdicts=["one training seed says nothing about the next one; play several with seeds=3"])
        found = [
            curve
            for run_dir, seed in dict.fromkeys((one.run_dir, one.training_seed) for one in played)
            for curve in curves_of(Path(run_dir), f"seed {seed}", self.curves)
        ]
        figures = [learning_curves("training", "Training with other seeds", found)] if found else []
        verdicts = [*_verdicts(played), *_apart(tables)]
        return Findings([*tables, *([_last(found)] if found else [])], figures, verdicts)


def curves_of(run_dir: Path, label: str, names: Sequence[str]) -> list[Curve]:
    """The named curves of a run's stages, from their TensorBoard files; stages without one give none."""
    found = []
    for stage in sorted(path for path in run_dir.glob("*/tensorboard") if path.is_dir()):
        events = EventAccumulator(str(stage)).Reload()
        for name in (name for name in names if name in events.Tags()["scalars"]):
            points = sorted({event.step: event.value for event in events.Scalars(name)}.items())
            steps, values = zip(*points, strict=True)
            found.append(Curve(f"{stage.parent.name}: {name}", label, list(steps), list(values)))
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


def _verdicts(played: Sequence[Played]) -> list[str]:
    lines = ["The rule, fixed before the numbers: none; spread between training seeds is reported, not tested."]
    for arm in arms_of(played):
        means = [
            float(np.mean([episode.utility for episode in one.episodes if episode.end != "invalid"]))
            for one in played
            if one.arm == arm and one.episodes
        ]
        if len(means) > 1:
            spread = float(np.std(means, ddof=1))
            lines.append(
                f"{arm}: mean utility {np.mean(means):.3f} over {len(means)} training seeds, from {min(means):.3f} to "
                f"{max(means):.3f} (standard deviation {spread:.3f})."
            )
    return lines


def _apart(tables: Sequence[Table]) -> list[str]:
    return [
        f"{row['arm']} less {row['against']}: {mean:+.3f} [{low:+.3f}, {high:+.3f}] over training seeds and scenarios; "
        f"with each seed {row['each']}."
        for table in tables
        if table.name == "seed_differences"
        for row in table.rows
        for mean, low, high in [row["mean_interval"]]
    ]
