"""What a study took: seconds, tokens and money of playing, by condition and arm, and what training its stages took."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emodistill.evaluation.results import ArmResult, Cost, distinct
from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Column, Table

_COLUMNS = [
    Column("condition", "condition", "text"),
    Column("arm", "arm", "text"),
    Column("training_seed", "training seed", "count"),
    Column("episodes", "episodes", "count"),
    Column("seconds", "seconds", digits=1),
    Column("prompt_tokens", "prompt tokens", "count"),
    Column("generated_tokens", "tokens said", "count"),
    Column("money", "money (USD)", digits=4),
]
_NOTE = "Of playing. A dash: no price is known. Tokens of both seats, where known."
_TRAINED = [
    Column("stage", "stage", "text"),
    Column("steps", "steps", "count"),
    Column("seconds", "seconds", digits=1),
    Column("tokens", "tokens learnt from", "count"),
]
_TRAINED_NOTE = (
    "The stages that the arms of this study play with, whenever they were trained, and those that these learnt from; "
    "validation is in it, corpus and model are not. A dash: it was not counted. What a judge behind an endpoint was "
    "paid, the stage itself prints."
)


@dataclass(frozen=True)
class Costs:
    """One row for each arm in each condition, one for each stage that they play with, and the sums."""

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        rows = [
            {
                "condition": one.condition,
                "arm": one.arm,
                "training_seed": one.training_seed,
                "episodes": len(one.episodes),
                **asdict(one.cost),
            }
            for one in played
        ]
        total = sum((one.cost for one in played), Cost())
        episodes = sum(len(one.episodes) for one in distinct(played))
        rows.append({"condition": "", "arm": "together", "episodes": episodes, **asdict(total)})
        folders = dict.fromkeys(Path(one.run_dir) / stage for one in played for stage in one.stages)
        trained = trained_stages(folders)
        tables = [Table("costs", "What playing took", _COLUMNS, rows, _NOTE)]
        return AnalysisResult([*tables, Table("training", "What training took", _TRAINED, trained, _TRAINED_NOTE)])


def trained_stages(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """A row for each finished stage; one that several runs share, by links, comes once."""
    found: dict[Path, dict[str, Any]] = {}
    for path in (folder / "finished.json" for folder in folders):
        if path.is_file():
            summary = json.loads(path.read_text(encoding="utf-8"))
            seconds, tokens = (summary.get(f"throughput/training_{name}") for name in ("seconds", "tokens"))
            stage = {"stage": str(path.parent), "steps": summary["steps"], "seconds": seconds}
            found.setdefault(path.resolve(), stage | {"tokens": None if tokens is None else int(tokens)})
    rows = list(found.values())
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    return [*rows, {"stage": "together", "seconds": sum(known)}] if known else rows
