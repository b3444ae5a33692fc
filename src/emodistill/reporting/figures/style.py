"""How all figures look: colours and markers that everybody can tell apart, little ink, sizes that read at 100 %."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

# Okabe and Ito 2008, without the yellow that white paper swallows; then darker ones of Tol's muted scheme
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288", "#882255", "#117733", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
INK, FAINT = "#222222", "#c8c8c8"
FOCAL_COLOUR, COUNTERPARTY_COLOUR = PALETTE[0], PALETTE[1]
SETTINGS = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # words stay words: small files, sharp text
    "svg.hashsalt": "emodistill",  # the same figure is the same file
}


@contextmanager
def styled() -> Iterator[None]:
    """Within, matplotlib draws in this style."""
    with mpl.rc_context(SETTINGS):
        yield


def look(index: int) -> dict[str, Any]:
    """Colour and marker of the i-th thing to tell apart."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}


def panels(canvas: Canvas, count: int, columns: int, size: tuple[float, float]) -> list[Axes]:
    """`count` axes in rows of `columns`, each of `size` inches, with common scales; spare places stay empty."""
    columns = max(min(columns, count), 1)
    rows = max(-(-count // columns), 1)
    canvas.set_layout_engine("constrained")
    canvas.set_size_inches(columns * size[0], rows * size[1])
    grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in grid[count:]:
        spare.remove()
    for i, axes in enumerate(grid[:count]):  # what the removed ones cannot show
        if i + columns >= count:
            axes.tick_params(labelbottom=True)
    return list(grid[:count])


def words(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence, the first few."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
