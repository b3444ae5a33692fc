"""What a study took: seconds, tokens and money of playing, by condition and arm, and what training its stages took."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.arms import Arm, parse_arm
from emodistill.evaluation.results import ArmResult, Cost
from emodistill.evaluation.stage_graph import needed_stages
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
    """One row for each arm in each condition, one for each stage that they play with, and the sums.

    Attributes:
        vocabulary: its name.
    """

    vocabulary: str

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
        total = total_of(played)
        episodes = sum(len(one.episodes) for one in played)
        rows.append({"condition": "", "arm": "together", "episodes": episodes, **asdict(total)})
        trained = trained_stages(self._folders(played))
        tables = [Table("costs", "What playing took", _COLUMNS, rows, _NOTE)]
        return AnalysisResult([*tables, Table("training", "What training took", _TRAINED, trained, _TRAINED_NOTE)])

    def _folders(self, played: Sequence[ArmResult]) -> list[Path]:
        vocabulary = load_vocabulary(self.vocabulary)
        of_run: dict[str, list[Arm]] = {}
        for one in (one for one in played if one.run_dir):
            of_run.setdefault(one.run_dir, []).append(parse_arm(one.arm, vocabulary))
        return [Path(run) / stage for run, arms in of_run.items() for stage in needed_stages(arms)]


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


def total_of(played: Sequence[ArmResult]) -> Cost:
    """The sum over everything that was played."""
    return sum((one.cost for one in played), Cost())


def in_words(cost: Cost) -> str:
    """One line for the screen."""
    tokens = f"{cost.prompt_tokens + cost.generated_tokens:,} tokens ({cost.generated_tokens:,} of them said)"
    money = "at an unknown price" if cost.money is None else f"for {cost.money:.2f} USD"
    return f"playing took {cost.seconds:,.0f} s and {tokens}, {money}"
