"""Matrices with their numbers: who wins against whom, what carries over from one domain to another."""

from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure as Canvas

from emodistill.reporting.tables import Figure


def matrix(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    axes: tuple[str, str, str],
    centre: float | None = None,
) -> Figure:
    """A heat map with its numbers written in; None and nan stay empty.

    Args:
        values: a row for each of `rows`, a value for each of `columns`.
        axes: what the rows are, what the columns are, and what the numbers are, with their unit.
        centre: the value that is neither good nor bad; colours part there.
    """
    numbers = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    listed = [
        f"{row}, {column}: {value:.2f}."
        for row, line in zip(rows, numbers, strict=True)
        for column, value in zip(columns, line, strict=True)
        if np.isfinite(value)
    ]
    words = f"{title}: {axes[2]}, a row for each {axes[0]} and a column for each {axes[1]}. {' '.join(listed[:64])}"
    return Figure(name, title, words, partial(_draw, list(rows), list(columns), numbers, axes, centre))


def _draw(
    rows: list[str], columns: list[str], numbers: np.ndarray, names: tuple[str, str, str], centre: float | None,
    canvas: Canvas,
) -> None:  # fmt: skip
    longest = max((len(name) for name in rows), default=1)
    canvas.set_layout_engine("constrained")
    canvas.set_size_inches(1.9 + 0.075 * longest + 0.82 * len(columns), 1.5 + 0.46 * len(rows))
    axes = canvas.subplots()
    colours = "cividis" if centre is None else "PuOr_r"
    image = axes.imshow(numbers, cmap=colours, norm=_norm(numbers, centre), aspect="auto")
    _numbers(axes, numbers, image)
    slanted = any(len(name) > 9 for name in columns)
    axes.set_xticks(range(len(columns)), columns)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(names[0])
    axes.set_xlabel(names[1])
    canvas.colorbar(image, ax=axes, shrink=0.9, label=names[2]).outline.set_visible(False)


def _norm(numbers: np.ndarray, centre: float | None) -> Normalize:
    finite = numbers[np.isfinite(numbers)]
    if centre is None:
        return Normalize(float(finite.min()), float(finite.max())) if finite.size else Normalize(0, 1)
    reach = max(float(np.abs(finite - centre).max()) if finite.size else 0.0, 1e-6)
    return TwoSlopeNorm(centre, centre - reach, centre + reach)


def _numbers(axes: Axes, numbers: np.ndarray, image: "mpl.image.AxesImage") -> None:
    for (i, j), value in np.ndenumerate(numbers):
        if not np.isfinite(value):
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black", fontsize=9.5)
