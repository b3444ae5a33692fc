"""How all figures look: colours and markers that everybody can tell apart, little ink, sizes that read at 100 %."""

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

# Okabe and Ito 2008, without the yellow that white paper swallows; then darker ones of Tol's muted scheme
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288", "#882255", "#117733", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")  # categories of characters that leave no mark
INK, FAINT = "#222222", "#c8c8c8"
FOCAL_COLOUR, COUNTERPARTY_COLOUR = PALETTE[0], PALETTE[1]
FAMILY = "sans-serif"
SETTINGS = {
    "font.size": 10,
    "font.family": FAMILY,
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
    "text.parse_math": False,  # a $ in a label is a $
    "legend.frameon": False,
    "svg.fonttype": "none",  # words stay words: small files, sharp text
    "svg.hashsalt": "emodistill",  # the same figure is the same file
}


@contextmanager
def styled() -> Iterator[None]:
    """Within, matplotlib draws in this style."""
    with mpl.rc_context(SETTINGS):
        yield


def font_families(text: str) -> tuple[list[str], str]:
    """The fonts that it takes to draw a text, and its characters that no font of this machine has.

    Returns:
        families beside the usual one, and characters, each once.
    """
    usual = _characters(findfont(FontProperties(family=[FAMILY])))
    lacking = {sign for sign in text if ord(sign) not in usual and unicodedata.category(sign) not in INVISIBLE}
    families = []
    for font in fontManager.ttflist if lacking else ():
        if font.style == "normal" and "LastResort" not in font.fname:  # that one has a box for everything
            found = {sign for sign in lacking if ord(sign) in _characters(font.fname)}
            families += [font.name] if found else []
            lacking -= found
    return families, "".join(sorted(lacking))


@cache
def _characters(file: str) -> frozenset[int]:
    return frozenset(get_font(file).get_charmap())


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
