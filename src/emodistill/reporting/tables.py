"""Tables of raw values and figures with their words; every format of a report is made from these."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Kind = Literal["text", "number", "count", "percent", "interval"]
MISSING = "–"
ALL_DOMAINS = "all"  # in the column `domain` of a table: the row over all domains together


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
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""

    def cells(self) -> list[list[str]]:
        """All rows in words."""
        return [[column.show(row.get(column.key)) for column in self.columns] for row in self.rows]

    def overall(self) -> "Table":
        """The rows over all domains alone; the whole table where it has none of those."""
        rows = [row for row in self.rows if row.get("domain") == ALL_DOMAINS]
        return replace(self, rows=rows) if rows else self

    def by_domain(self) -> "Table":
        """The rows of single domains, under a name of their own."""
        rows = [row for row in self.rows if row.get("domain") != ALL_DOMAINS]
        return replace(self, name=f"{self.name}-by-domain", title=f"{self.title}, by domain", rows=rows)


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
