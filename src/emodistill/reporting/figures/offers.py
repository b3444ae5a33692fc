"""How both sides' offers move towards each other."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from emodistill.data.schema import Episode
from emodistill.negotiation.protocol import FOCAL, MAX_ROUNDS, Speaker, other
from emodistill.reporting.figure import Figure
from emodistill.reporting.figures.style import COUNTERPARTY, FAINT, words
from emodistill.reporting.figures.style import FOCAL as FOCAL_COLOUR

if TYPE_CHECKING:
    from emodistill.evaluation.results import Played

MOST_ARMS = 6
_OF_SIDE = {FOCAL: (FOCAL_COLOUR, "focal side", "-"), other(FOCAL): (COUNTERPARTY, "counterparty", "--")}


def offer_trajectories(played: "Sequence[Played]") -> Figure | None:
    """Mean position of each side by round, and the middle four fifths of episodes; a row of panels for each arm.

    An episode that is over stays where it ended, so every round stands for the same episodes. None without episodes.
    """
    episodes: dict[str, list[Episode]] = {}
    for item in played:
        episodes.setdefault(item.arm, []).extend(e for e in item.episodes if e.end != "invalid" and e.turns)
    arms = [arm for arm, found in episodes.items() if found][:MOST_ARMS]
    if not arms:
        return None
    domains = sorted({episode.scenario.domain for arm in arms for episode in episodes[arm]})
    last = {arm: np.nanmean([_path(e, other(FOCAL))[-1] for e in episodes[arm]]) for arm in arms}
    listed = ", ".join(f"{arm} {value:.2f}" for arm, value in last.items())
    return Figure(
        "offer_trajectories",
        "Offers over the rounds",
        "Position of both sides' standing offers by round, 1 at the focal side's target and 0 at the counterparty's, "
        f"for {words(arms)} in {words(domains)}; an episode that is over stays where it ended. Where the counterparty "
        f"ends on average: {listed}.",
        partial(_draw, {arm: episodes[arm] for arm in arms}, domains),
    )


def _path(episode: Episode, side: Speaker) -> list[float]:
    """The side's standing position after each round, MAX_ROUNDS numbers; nan before its first offer."""
    standing, path = float("nan"), [float("nan")] * MAX_ROUNDS
    for turn in episode.turns:
        if turn.speaker == side and turn.offer is not None:
            standing = episode.scenario.position(turn.offer)
        path[min(turn.round, MAX_ROUNDS) - 1] = standing
    if episode.deal_value is not None:
        standing = episode.scenario.position(episode.deal_value)
    over = min(episode.turns[-1].round, MAX_ROUNDS) - 1
    return path[:over] + [standing] * (MAX_ROUNDS - over)


def _draw(episodes: dict[str, list[Episode]], domains: list[str], canvas: Canvas) -> None:
    canvas.set_layout_engine("constrained")
    canvas.set_size_inches(0.9 + 2.4 * len(domains), 0.9 + 1.5 * len(episodes))
    grid = canvas.subplots(len(episodes), len(domains), sharex=True, sharey=True, squeeze=False)
    for line, (arm, found) in zip(grid, episodes.items(), strict=True):
        for axes, domain in zip(line, domains, strict=True):
            _panel(axes, [episode for episode in found if episode.scenario.domain == domain])
            if axes in grid[0]:
                axes.set_title(domain)
        line[0].set_ylabel(arm.replace("_", "\n") if len(arm) > 14 else arm, fontsize=9.5)
    last = max(episode.turns[-1].round for found in episodes.values() for episode in found)
    grid[0][0].set_xlim(0.5, last + 1.5)
    canvas.supxlabel("round", fontsize=10)
    canvas.supylabel("position (1: the focal side's target, 0: the counterparty's)", fontsize=10)
    handles, labels = grid[0][0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper right", ncols=2)


def _panel(axes: Axes, episodes: list[Episode]) -> None:
    rounds = np.arange(1, MAX_ROUNDS + 1)
    for side, (colour, label, dashes) in _OF_SIDE.items():
        paths = np.array([_path(episode, side) for episode in episodes])
        known = np.isfinite(paths).any(0) if len(paths) else np.zeros(MAX_ROUNDS, dtype=bool)
        if known.any():
            low, high = np.nanquantile(paths[:, known], [0.1, 0.9], axis=0)
            axes.fill_between(rounds[known], low, high, color=colour, alpha=0.18, linewidth=0)
            mean = np.nanmean(paths[:, known], axis=0)
            axes.plot(rounds[known], mean, dashes, color=colour, linewidth=2, label=label)
    axes.set_ylim(-0.1, 1.1)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks([1, 5, 10, 15])
    axes.grid(color=FAINT, linewidth=0.5)
