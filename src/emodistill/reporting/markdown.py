"""Tables as Markdown."""

import re
from collections.abc import Iterable

from emodistill.reporting.table import Table

_SPECIAL = re.compile(r"([\\`*_<>|\[\]])")


def markdown(table: Table) -> str:
    """The table under its title, with its note beneath; all words are escaped."""
    marks = ["---" if column.kind == "text" else "---:" for column in table.columns]
    lines = [_row(column.header for column in table.columns), f"|{'|'.join(marks)}|", *map(_row, table.cells())]
    note = [escape_markdown(table.note)] if table.note else []
    return "\n\n".join([f"**{escape_markdown(table.title)}**", "\n".join(lines), *note]) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it stands, in one line. An interval keeps its brackets: alone they are no link."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace(r"\[", "[").replace(r"\]", "]").replace("](", r"]\(")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(escape_markdown, cells))} |"
