"""What the report of a study is made from: its findings as one, how they came about, and the raw values."""

import platform
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import torch

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.reporting.tables import AnalysisResult, Column, Table
from emodistill.studies.comparisons import plain
from emodistill.studies.main_table import main_report

_EXPRESSION = [
    Column("source", "words", "text"),
    Column("situations", "situations", "count"),
    Column("faithfulness", "faithful"),
    Column("stated_offers", "offer stated"),
    Column("judge_score", "judge score"),
    Column("words", "words a reply", digits=1),
]


def merged(findings: Mapping[str, AnalysisResult], expression: Sequence[Mapping[str, Any]] = ()) -> AnalysisResult:
    """All findings as one, in their order, then what was measured of the words alone."""
    measured = [expression_table(expression)] if expression else []
    return AnalysisResult(
        [*(table for one in findings.values() for table in one.tables), *measured],
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
    played: Sequence[ArmResult], vocabulary: Vocabulary, expression: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What `report.json` holds besides tables and verdicts, in plain values: cells, comparisons, expression."""
    raw = main_report(played, load_perceiver("counterparty"), vocabulary) if played else {}
    return {**raw, "expression": plain(list(expression))}


def expression_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How well each source of words expresses itself."""
    return Table("expression", "Expression in fixed situations of the validation split", _EXPRESSION, rows)
