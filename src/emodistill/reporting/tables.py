"""What a report is made from: tables of raw values, figures with their words, and the result of a whole study.

An analysis returns an `AnalysisResult`; a study puts them together as a `StudyResult`, and the page, the files beside it
and the terminal all read that one object.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from emodistill.evaluation.results import ArmResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Kind = Literal["text", "number", "count", "percent", "interval"]
MISSING = "–"
ALL_DOMAINS = "all"  # in the column `domain` of a table: the row over all domains together
RULE = "The rule, fixed before the numbers:"  # a verdict that begins so states the rule of the others


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: of the row's value; an `interval` reads `(value, low, high)`.
        header: what people read.
        digits: after the point.
    """

    key: str
    header: str
    kind: Kind = "number"
    digits: int = 2

    def show(self, value: Any) -> str:
        """The value in words; what is missing or not a number is a dash."""
        if self.kind == "interval":
            mean, low, high = (_number(part, self.digits) for part in value or (None, None, None))
            return f"{mean} [{low}, {high}]"
        if value is None or value != value:
            return MISSING
        if self.kind == "percent":
            return f"{100 * value:.{max(self.digits - 2, 0)}f} %"
        return _number(value, self.digits) if self.kind == "number" else str(value)


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None or value != value else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Table:
    """Rows of plain JSON values; every format is made from this one object.

    Attributes:
        name: of its files, e.g. `arms`.
        note: how to read it, shown beneath.
        appendix: in the files of a report and on its page, but not on the screen.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    appendix: bool = False

    def cells(self) -> list[list[str]]:
        """All rows in words."""
        return [[column.show(row.get(column.key)) for column in self.columns] for row in self.rows]

    def overall(self) -> "Table":
        """The rows over all domains alone; the whole table where it has none of those."""
        rows = [row for row in self.rows if row.get("domain") == ALL_DOMAINS]
        return replace(self, rows=rows) if rows else self


@dataclass(frozen=True)
class Figure:
    """One figure of a report.

    Attributes:
        name: of its file, e.g. `utility_by_arm`.
        alternative: what it shows, in words, for those who do not see it.
        draw: fills an empty matplotlib figure; it sets its size itself.
    """

    name: str
    title: str
    alternative: str
    draw: "Callable[[Canvas], None]"


@dataclass(frozen=True)
class AnalysisResult:
    """What one analysis found.

    Attributes:
        verdicts: one plain sentence each, the most important first; one may begin with `RULE`.
        answer: one sentence that answers the study's question; empty where the analysis asks none.
        subject: the arm that the verdicts are about, where they are about one.
    """

    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    verdicts: Sequence[str] = ()
    answer: str = ""
    subject: str = ""


@dataclass(frozen=True)
class StudyResult:
    """What a report of a study is made from.

    Attributes:
        about: how the numbers came about, e.g. `run`, `study`, `command`, `date`, `machine`; shown in this order.
        results: the episodes of each arm, those of each condition and training seed apart.
        analyses: what each analysis found, by its name, in the order of the report.
        raw: what `report.json` holds besides tables, verdicts and `about`, in plain values.
    """

    about: Mapping[str, Any]
    results: Sequence[ArmResult]
    analyses: Mapping[str, AnalysisResult]
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tables(self) -> list[Table]:
        """All tables, each under a name of its own."""
        return distinct([table for one in self.analyses.values() for table in one.tables])

    @property
    def figures(self) -> list[Figure]:
        """All figures, each under a name of its own."""
        return distinct([figure for one in self.analyses.values() for figure in one.figures])

    @property
    def verdicts(self) -> list[str]:
        """The verdicts of all analyses, without the rules."""
        return [line for line in self.statements if not line.startswith(RULE)]

    @property
    def rule(self) -> str:
        """How the verdicts are reached; empty where no analysis states it."""
        return " ".join(line.removeprefix(RULE).strip() for line in self.statements if line.startswith(RULE))

    @property
    def statements(self) -> list[str]:
        """Rules and verdicts, as the analyses give them."""
        return [line for one in self.analyses.values() for line in one.verdicts]

    @property
    def answer(self) -> str:
        """One sentence that answers the study's question: the first answer, else the first verdict, else empty."""
        return next((one.answer for one in self.analyses.values() if one.answer), next(iter(self.verdicts), ""))

    @property
    def subject(self) -> str:
        """The arm that the verdicts are about; empty where they are about none."""
        return next((one.subject for one in self.analyses.values() if one.subject), "")


Named = TypeVar("Named", Table, Figure)


def distinct(named: Sequence[Named]) -> list[Named]:
    """The same with names that are fit for files and come once: a second `arms` is `arms_2`."""
    found: dict[str, Named] = {}
    for entry in named:
        base: str = re.sub(r"[^\w.-]+", "-", entry.name).strip("-.") or "unnamed"
        names = [base, *(f"{base}_{i}" for i in range(2, len(named) + 2))]
        name = next(name for name in names if name not in found)
        found[name] = entry if name == entry.name else replace(entry, name=name)
    return list(found.values())
