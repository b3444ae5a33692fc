"""Curves: what training did step by step, and whether a prediction came true."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from emodistill.reporting.figures.style import FAINT, INK, look, panels, words
from emodistill.reporting.tables import Figure


@dataclass(frozen=True)
class Curve:
    """A line of one panel.

    Attributes:
        panel: what is measured, e.g. `val/fqe_value`.
        label: what the line stands for, e.g. `seed 1`.
    """

    panel: str
    label: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Bin:
    """Turns whose predicted return was alike: the mean prediction, and what came of them with its 95 % interval."""

    label: str
    predicted: float
    realised: float
    low: float
    high: float


def learning_curves(name: str, title: str, curves: Sequence[Curve], axis: str = "step") -> Figure:
    """A panel for each measure, a line for each label."""
    measures = list(dict.fromkeys(curve.panel for curve in curves))
    ends = "; ".join(f"{c.panel}, {c.label}: {c.values[-1]:.3g}" for c in curves[:40] if len(c.values))
    alternative = f"{title}: {words(measures)} by {axis}. Where the lines end: {ends}."
    return Figure(name, title, alternative, partial(_draw_curves, list(curves), axis))


def calibration(name: str, title: str, bins: Sequence[Bin], unit: str) -> Figure:
    """Predicted against realised return, a panel for each label; on the diagonal the prediction is right."""
    labels = list(dict.fromkeys(entry.label for entry in bins))
    listed = "; ".join(f"{b.label}: predicted {b.predicted:.2f}, realised {b.realised:.2f}" for b in bins[:40])
    alternative = f"{title}, for {words(labels)}, in {unit}. {listed}."
    return Figure(name, title, alternative, partial(_draw_bins, list(bins), labels, unit))


def _draw_curves(curves: Sequence[Curve], axis: str, canvas: Canvas) -> None:
    measures = list(dict.fromkeys(curve.panel for curve in curves))
    labels = list(dict.fromkeys(curve.label for curve in curves))
    canvas.set_layout_engine("constrained")
    canvas.set_size_inches(0.4 + 3.6 * min(len(measures), 3), 3.0 * -(-len(measures) // 3) + 0.4)
    grid = canvas.subplots(-(-len(measures) // 3), min(len(measures), 3), squeeze=False).ravel()
    for axes, measure in zip(grid, measures, strict=False):
        for curve in (curve for curve in curves if curve.panel == measure):
            style, every = look(labels.index(curve.label)), max(len(curve.steps) // 6, 1)
            axes.plot(curve.steps, curve.values, label=curve.label, markersize=5, markevery=every, **style)
        axes.set_title(measure)
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(color=FAINT, linewidth=0.5)
    for spare in grid[len(measures) :]:
        spare.remove()
    handles, names = grid[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6))


def _draw_bins(bins: Sequence[Bin], labels: Sequence[str], unit: str, canvas: Canvas) -> None:
    ends = [value for entry in bins for value in (entry.predicted, entry.realised) if value == value]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    for axes, label in zip(panels(canvas, len(labels), 3, (3.3, 2.9)), labels, strict=True):
        axes.plot([low, high], [low, high], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        style = look(labels.index(label))
        for entry in (entry for entry in bins if entry.label == label):
            axes.plot([entry.predicted] * 2, [entry.low, entry.high], color=style["color"], linewidth=1.8)
            axes.plot([entry.predicted], [entry.realised], markersize=6.5, **style)
        axes.set_title(label)
        axes.grid(color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
    canvas.supxlabel(f"predicted by Q ({unit})", fontsize=10)
    canvas.supylabel(f"realised ({unit})", fontsize=10)
