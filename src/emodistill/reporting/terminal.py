"""Tables on the screen."""

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from emodistill.reporting.table import Table

WIDTH = 190  # of a table that is piped into a file: as wide as it needs


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table; where its first two columns are words, a line parts the values of the first."""
    console = console or (Console() if Console().is_terminal else Console(width=WIDTH))
    grid = Grid(title=Text(table.title), caption=Text(table.note) if table.note else None, caption_justify="left")
    for column in table.columns:
        label = column.kind == "text"
        grid.add_column(
            Text(column.header), justify="left" if label else "right", no_wrap=label or column.kind == "interval"
        )
    rows = table.cells()
    sections = len(table.columns) > 1 and all(column.kind == "text" for column in table.columns[:2])
    for before, row in zip([None, *rows], rows, strict=False):
        if sections and before is not None and before[0] != row[0]:
            grid.add_section()
        grid.add_row(*map(Text, row))  # Text: words from outside may look like rich's markup
    console.print(grid)
