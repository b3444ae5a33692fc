"""From results to what people look at: tables and figures in every format, and one page that holds them all.

    from emodistill.reporting import AnalysisResult, Column, StudyResult, Table, write_report

`reporting.figures` has the figures of a report, `reporting.model_card` the card beside an adapter. A name is imported
from its module when it is first asked for, so that a table alone does not load PyTorch.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.reporting.formats import print_table
    from emodistill.reporting.report import write_report
    from emodistill.reporting.results import AnalysisResult, StudyResult
    from emodistill.reporting.tables import Column, Figure, Table

_MODULES = {
    "formats": ("print_table",),
    "report": ("write_report",),
    "results": ("AnalysisResult", "StudyResult"),
    "tables": ("Column", "Figure", "Table"),
}

__all__ = ["AnalysisResult", "Column", "Figure", "StudyResult", "Table", "print_table", "write_report"]

__getattr__ = lazy_attributes(__name__, _MODULES)
