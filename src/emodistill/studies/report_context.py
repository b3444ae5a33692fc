"""How the numbers of a report came about, and what was measured of the generators alone."""

import platform
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import torch

from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Column, Table

_EXPRESSION = [
    Column("source", "words", "text"),
    Column("situations", "situations", "count"),
    Column("faithfulness", "faithful"),
    Column("stated_offers", "offer stated"),
    Column("judge_score", "judge score"),
    Column("words", "words a reply", digits=1),
]


def about_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """How the numbers came about."""
    return {
        **known,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.__version__}",
        "faithfulness_by": "perceiver 'counterparty', which trained neither selector nor policy",
        "interval": "95 %, bootstrap over scenarios, 10,000 resamples",
    }


def expression_result(rows: Sequence[Mapping[str, Any]]) -> AnalysisResult:
    """How well each generator expresses itself in fixed contexts."""
    table = Table("expression", "Expression in fixed situations of the validation split", _EXPRESSION, rows)
    return AnalysisResult([table] if rows else [], values={"expression": list(rows)})
