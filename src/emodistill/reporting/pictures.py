"""Figures as files: PNG for people and papers, SVG for the page, and TensorBoard."""

import base64
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from emodistill.reporting.figure import Figure
from emodistill.reporting.figures.style import styled

DPI = 150
LARGEST_VECTOR = 400_000  # bytes; a larger drawing goes into the page as pixels


def drawn(figure: Figure, titled: bool) -> Canvas:
    """A matplotlib figure; a title belongs into one that stands alone."""
    with styled():
        canvas = Canvas(dpi=DPI)
        FigureCanvasAgg(canvas)
        figure.draw(canvas)
        if titled:
            canvas.suptitle(figure.title, fontweight="bold", fontsize=12)
    return canvas


def png(figure: Figure, titled: bool = True) -> bytes:
    return _saved(figure, "png", titled)


def svg(figure: Figure) -> bytes:
    return _saved(figure, "svg", titled=False)


def data_uri(figure: Figure) -> str:
    """The figure for an `<img>`: a drawing, or pixels where that would be large."""
    vector = svg(figure)
    if len(vector) <= LARGEST_VECTOR:
        return "data:image/svg+xml," + quote(vector.decode(), safe=" =:/;,()'!*@+-._~")
    return "data:image/png;base64," + base64.b64encode(png(figure, titled=False)).decode()


def to_tensorboard(figures: Sequence[Figure], folder: Path) -> None:
    """Write all figures as one event file; an older one in this folder is replaced."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    if not figures:
        return
    with SummaryWriter(str(folder)) as writer:
        for figure in figures:
            writer.add_figure(figure.name, drawn(figure, titled=True))


def _saved(figure: Figure, kind: str, titled: bool) -> bytes:
    canvas, buffer = drawn(figure, titled), io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # the same figure is the same file
    plain = nothing if kind == "svg" else None
    with styled():
        canvas.savefig(buffer, format=kind, dpi=DPI, metadata=plain, bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()
