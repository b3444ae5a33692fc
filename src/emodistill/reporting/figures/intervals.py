"""Estimates with their intervals: means of arms, differences between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from emodistill.data.schema import Episode
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import ALPHA, bootstrap_interval, utilities
from emodistill.reporting.figures.style import FAINT, INK, look, panels, words
from emodistill.reporting.tables import Column, Figure

ROW_INCHES = 0.3


@dataclass(frozen=True)
class Estimate:
    """One point with its 95 % interval.

    Attributes:
        panel: where it is drawn, e.g. a domain.
        label: its row, e.g. an arm.
        strong: drawn filled; others are hollow.
    """

    panel: str
    label: str
    mean: float
    low: float
    high: float
    strong: bool = True


def interval_plot(
    name: str, title: str, estimates: Sequence[Estimate], axis: str, reference: float | None = None
) -> Figure:
    """A panel for each domain, a row for each label in the order given; a line where `reference` is.

    Args:
        axis: label of the value axis, with its unit.
    """
    found = list(dict.fromkeys(estimate.panel for estimate in estimates))
    parts = [f"{title}: {axis}, by {words(found)}."]
    for estimate in estimates[:40]:
        numbers = Column("", "", "interval").show((estimate.mean, estimate.low, estimate.high))
        parts.append(f"{estimate.panel}, {estimate.label}: {numbers}.")
    return Figure(name, title, " ".join(parts), partial(_draw, list(estimates), axis, reference))


def utility_by_arm(results: Sequence[ArmResult], seed: int = 0) -> Figure | None:
    """Mean utility of every arm, in each domain and over all of them; None without a valid episode.

    Training seeds are averaged first. The intervals are those of the table of arms: a bootstrap over scenarios.
    """
    played: dict[str, list[Episode]] = {}
    for one in results:
        played.setdefault(", ".join(filter(None, (one.arm, one.condition))), []).extend(one.episodes)
    found = {arm: utilities(episodes) for arm, episodes in played.items()}
    domains = sorted({domain for values in found.values() for domain, _, _ in values})
    everywhere = [*(["all domains"] if len(domains) > 1 else []), *domains]
    estimates = []
    for panel in everywhere:
        for arm, values in found.items():
            chosen = {key: value for key, value in values.items() if panel in ("all domains", key[0])}
            if chosen:
                numbers = list(chosen.values())
                interval = bootstrap_interval(numbers, [key[:2] for key in chosen], seed, unseen=0.0)
                estimates.append(Estimate(panel, arm, sum(numbers) / len(numbers), *interval))
    title = "Utility by arm and domain"
    return interval_plot("utility", title, estimates, "mean utility, 95 % interval") if estimates else None


def differences(rows: Sequence[Mapping[str, Any]], title: str) -> Figure | None:
    """Paired differences against each rival, from the rows of the table of comparisons; None without any.

    A filled mark is a difference that stands after Holm's correction (p below 5 %), a hollow one is not.
    """
    estimates = []
    for row in rows:
        mean, low, high = row["difference_interval"]
        if None not in (mean, low, high):
            stands = row["p_holm"] is not None and row["p_holm"] < ALPHA
            estimates.append(Estimate(row["domain"], row["against"], mean, low, high, stands))
    axis = "difference of utility, 95 % interval; filled: p (Holm) below 0.05"
    return interval_plot("differences", title, estimates, axis, reference=0.0) if estimates else None


def _draw(estimates: Sequence[Estimate], axis: str, reference: float | None, canvas: Canvas) -> None:
    names = list(dict.fromkeys(estimate.panel for estimate in estimates))
    labels = list(dict.fromkeys(estimate.label for estimate in estimates))
    height = 0.75 + ROW_INCHES * max(len(labels), 2)  # one row alone leaves no room between title and axis
    grid = panels(canvas, len(names), 2 if len(names) in (2, 4) else 3, (3.6, height))
    for axes, panel in zip(grid, names, strict=True):
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for estimate in (e for e in estimates if e.panel == panel):
            _point(axes, estimate, labels.index(estimate.label))
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_title(panel)
    canvas.supxlabel(axis, fontsize=10)


def _point(axes: Axes, estimate: Estimate, row: int) -> None:
    style = look(row)
    axes.plot([estimate.low, estimate.high], [row, row], color=style["color"], linewidth=2.2, solid_capstyle="round")
    face = style["color"] if estimate.strong else "white"
    axes.plot([estimate.mean], [row], markersize=7, markerfacecolor=face, **style)
