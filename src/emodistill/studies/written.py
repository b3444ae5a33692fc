"""The report of a study on disk: `report.json` with every raw value, `report.md` for people."""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.main_table import main_report
from emodistill.evaluation.report import plain
from emodistill.reporting.table import Column, Table
from emodistill.runs import write_whole
from emodistill.studies.results import Findings, Played

_EXPRESSION = [
    Column("source", "words", "text"),
    Column("situations", "situations", "count"),
    Column("faithfulness", "faithful"),
    Column("stated_offers", "offer stated"),
    Column("judge_score", "judge score"),
    Column("words", "words a reply", digits=1),
]


def merged(findings: Mapping[str, Findings]) -> Findings:
    """All findings as one, in their order."""
    return Findings(
        [table for one in findings.values() for table in one.tables],
        [figure for one in findings.values() for figure in one.figures],
        [line for one in findings.values() for line in one.verdicts],
    )


def about_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """How the numbers came about."""
    return {
        **known,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.__version__}",
        "faithfulness_by": "perceiver 'counterparty', which trained neither selector nor policy",
        "interval": "95 %, bootstrap over scenarios, 10,000 resamples",
    }


def raw_of(
    played: Sequence[Played],
    vocabulary: Vocabulary,
    expression: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    findings: Findings,
) -> dict[str, Any]:
    """The content of `report.json`, in plain values: cells, comparisons, and every table and verdict of the study."""
    raw = main_report(played, load_perceiver("counterparty"), vocabulary) if played else {}
    tables = {table.name: [dict(row) for row in table.rows] for table in findings.tables}
    report: dict[str, Any] = plain({**raw, "tables": tables, "verdicts": list(findings.verdicts)})
    return {**report, "expression": plain(list(expression)), "about": dict(about)}


def expression_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table("expression", "Expression in fixed situations of the validation split", _EXPRESSION, rows)


def write(folder: Path, findings: Findings, report: Mapping[str, Any]) -> None:
    """Both files, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    about = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in report["about"].items())
    shown = [*findings.tables, *([expression_table(report["expression"])] if report["expression"] else [])]
    verdicts = "\n".join(f"- {line}" for line in findings.verdicts)
    write_whole(folder / "report.md", "\n\n".join([about, verdicts, *map(_markdown, shown)]) + "\n")


def _markdown(table: Table) -> str:
    lines = [f"| {' | '.join(column.header for column in table.columns)} |", "|" + "---|" * len(table.columns)]
    lines += [f"| {' | '.join(row)} |" for row in table.cells()]
    return f"**{table.title}**\n\n" + "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")
