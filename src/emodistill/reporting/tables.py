"""A picture and the words that go with it; how it is drawn is left to a function of matplotlib."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


# ---- table ----
# A table of raw values with the way each column is shown; every format is made from this one object.

Kind = Literal["text", "number", "count", "percent", "interval"]
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """One column.

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


@dataclass(frozen=True)
class Table:
    """Rows of plain JSON values.

    Attributes:
        name: of its files, e.g. `arms`.
        note: how to read it, or an honest word about it; shown beneath.
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


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None or value != value else f"{value:.{digits}f}"


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
