"""Tables and figures in every format: screen, Markdown, LaTeX and Parquet; PNG, SVG and TensorBoard."""

import base64
import io
import json
import logging
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text as Label
from PIL import Image
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from emodistill.reporting.figures.style import font_families, styled
from emodistill.reporting.tables import Column, Figure, Table

PIPED_WIDTH = 190  # characters of a table that is piped into a file: as wide as it needs
DPI = 150
_LOGGER = logging.getLogger(__name__)
_FAILURES = (  # what matplotlib raises at labels, fonts and sizes that it cannot draw
    *(ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError),
)
LARGEST_VECTOR = 400_000  # bytes; a larger drawing goes into the page as pixels


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table; where its first two columns are words, a line parts the values of the first."""
    console = console or (Console() if Console().is_terminal else Console(width=PIPED_WIDTH))
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


_MARKDOWN_SPECIAL = re.compile(r"([\\`*_~$<>|\[\]])")


def markdown(table: Table) -> str:
    """The table under its title, with its note beneath; all words are escaped."""
    marks = ["---" if column.kind == "text" else "---:" for column in table.columns]
    lines = [_row(column.header for column in table.columns), f"|{'|'.join(marks)}|", *map(_row, table.cells())]
    note = [escape_markdown(table.note)] if table.note else []
    return "\n\n".join([f"**{escape_markdown(table.title)}**", "\n".join(lines), *note]) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it stands, in one line. An interval keeps its brackets: alone they are no link."""
    escaped = _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace(r"\[", "[").replace(r"\]", "]").replace("](", r"]\(")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(escape_markdown, cells))} |"


_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": r"\(-\)",
    "±": r"\(\pm\)",
    "×": r"\(\times\)",
    "κ": r"\(\kappa\)",
    "β": r"\(\beta\)",
    "τ": r"\(\tau\)",
    "ρ": r"\(\rho\)",
}


def latex(table: Table) -> str:
    """A floating `table` that needs \\usepackage{booktabs}; every word is escaped."""
    # by hand: pandas escapes cells, but leaves captions as they are
    frame = pd.DataFrame(
        [[escape_latex(cell) for cell in row] for row in table.cells()],
        columns=[escape_latex(column.header) for column in table.columns],
        dtype=object,
    )
    found: str = frame.to_latex(
        index=False,
        column_format="".join("l" if column.kind == "text" else "r" for column in table.columns),
        caption=escape_latex(f"{table.title}. {table.note}" if table.note else table.title),
        label=f"tab:{table.name}",
        escape=False,
    )
    return found


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it stands, in one line."""
    return "".join(_LATEX_SPECIAL.get(character, character) for character in " ".join(text.split()))


def parquet(table: Table) -> bytes:
    """Raw values, nothing rounded, as a Parquet file; title, note and headers are in its metadata.

    One column each under its key; an interval is three: `<key>`, `<key>_low` and `<key>_high`.
    """
    names = [name for column in table.columns for name in _names(column)]
    frame = pd.DataFrame([_values(table.columns, row) for row in table.rows], columns=names)
    about = {"title": table.title, "note": table.note, "headers": {c.key: c.header for c in table.columns}}
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"emodistill": json.dumps(about).encode()})
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer)
    return buffer.getvalue()


def _names(column: Column) -> list[str]:
    return [column.key, f"{column.key}_low", f"{column.key}_high"] if column.kind == "interval" else [column.key]


def _values(columns: Sequence[Column], row: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for column in columns:
        value = row.get(column.key)
        found += list(value or (None, None, None)) if column.kind == "interval" else [value]
    return found


@dataclass(frozen=True)
class Picture:
    """A figure as it came out.

    Attributes:
        png: with its title, for people and papers; None where it could not be drawn.
        uri: for the page, which has the title in its own words; None where it could not be drawn.
        note: what is wrong with it, in a sentence; empty where nothing is.
    """

    figure: Figure
    png: bytes | None
    uri: str | None
    note: str = ""


def picture(figure: Figure) -> Picture:
    """Draw a figure. One that cannot be drawn is logged and says so: what was played is worth more than a picture."""
    try:
        canvas = drawn(figure, titled=False)  # once, for drawing takes as long as saving
        uri = _data_uri(canvas)
        _set_title(canvas, figure)
        content = _saved(canvas, "png")
        _, lacking = font_families(_words_in(canvas))
    except _FAILURES as error:
        why = next(iter(str(error).split("\n")), "") or "it does not say why"
        note = f"This figure could not be drawn ({type(error).__name__}: {why.strip()}); its numbers are in the tables."
        _LOGGER.warning("figure %s: %s", figure.name, note, exc_info=True)
        return Picture(figure, None, None, note)
    if not lacking:
        return Picture(figure, content, uri)
    note = f"No font of this machine has the characters {' '.join(lacking)}; boxes stand for them in pictures."
    _LOGGER.warning("figure %s: %s", figure.name, note)
    return Picture(figure, content, uri, note)


def drawn(figure: Figure, titled: bool) -> Canvas:
    """A matplotlib figure; a title belongs into one that stands alone."""
    with styled():
        canvas = Canvas(dpi=DPI)
        FigureCanvasAgg(canvas)
        figure.draw(canvas)
    if titled:
        _set_title(canvas, figure)
    else:
        _choose_fonts(canvas)
    return canvas


def _set_title(canvas: Canvas, figure: Figure) -> None:
    with styled():
        canvas.suptitle(figure.title, fontweight="bold", fontsize=12)
    _choose_fonts(canvas)


def _choose_fonts(canvas: Canvas) -> None:
    families, _ = font_families(_words_in(canvas))
    for label in canvas.findobj(Label) if families else ():
        label.set_fontfamily(list(dict.fromkeys([*label.get_fontfamily(), *families])))


def _words_in(canvas: Canvas) -> str:
    return "".join(label.get_text() for label in canvas.findobj(Label))


@contextmanager
def _boxes_allowed() -> Iterator[None]:
    """Within, matplotlib does not warn of every character that no font has: `picture` says it once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def svg(figure: Figure) -> bytes:
    """A drawing without its title."""
    return _saved(drawn(figure, titled=False), "svg")


def _saved(canvas: Canvas, kind: str) -> bytes:
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # the same figure is the same file
    metadata = nothing if kind == "svg" else None
    with styled(), _boxes_allowed():
        canvas.savefig(buffer, format=kind, dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()


def _data_uri(canvas: Canvas) -> str:
    """The figure for an `<img>`: a drawing, or pixels where that would be large."""
    vector = _saved(canvas, "svg")
    if len(vector) <= LARGEST_VECTOR:
        return "data:image/svg+xml," + quote(vector.decode(), safe=" =:/;,()'!*@+-._~")
    return "data:image/png;base64," + base64.b64encode(_saved(canvas, "png")).decode()


def to_tensorboard(pictures: Sequence[Picture], folder: Path) -> None:
    """Write all pictures that could be drawn as one event file; an older one in this folder is replaced."""
    from torch.utils.tensorboard import SummaryWriter  # here, so that printing a table does not load PyTorch

    shutil.rmtree(folder, ignore_errors=True)
    if not any(one.png for one in pictures):
        return
    with SummaryWriter(str(folder)) as writer:
        for one in pictures:
            if one.png:
                pixels = np.asarray(Image.open(io.BytesIO(one.png)).convert("RGB"))
                writer.add_image(one.figure.name, pixels, dataformats="HWC")
