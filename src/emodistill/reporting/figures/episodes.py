"""What arms do over the rounds: the emotions that they show, and how both sides' offers move towards each other."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Canvas

from emodistill.data.schema import Episode
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.results import ArmResult
from emodistill.negotiation.protocol import FOCAL, MAX_ROUNDS, Side, other
from emodistill.reporting.figures.style import COUNTERPARTY_COLOUR, FAINT, FOCAL_COLOUR, panels, words
from emodistill.reporting.tables import Figure

MOST_EMOTION_ARMS, MOST_TRAJECTORY_ARMS = 8, 6
SIDES = {FOCAL: (FOCAL_COLOUR, "focal side", "-"), other(FOCAL): (COUNTERPARTY_COLOUR, "counterparty", "--")}
FEWEST_TURNS = 5  # of a round; a share of fewer says nothing and stays empty
FAMILIES = {  # of GoEmotions' labels, as its authors group them
    "positive": "admiration amusement approval caring desire excitement gratitude joy love optimism pride relief",
    "ambiguous": "confusion curiosity realization surprise neutral",
    "negative": "anger annoyance disappointment disapproval disgust embarrassment fear grief nervousness remorse "
    "sadness",
}


def family(label: str, vocabulary: Vocabulary) -> str:
    """`positive`, `ambiguous` or `negative`, by the first thing that a label is perceived as; `other` without one."""
    first = next(iter(vocabulary.perceived(label)), label)
    return next((name for name, members in FAMILIES.items() if first in members.split()), "other")


def emotion_use(results: Sequence[ArmResult], vocabulary: Vocabulary) -> Figure | None:
    """Shares of emotions by round, a panel for each arm that changes its emotion; None where no arm does."""
    shares: dict[str, np.ndarray] = {}
    for one in results:
        counts = _emotion_counts(one, vocabulary)
        if (counts.sum(1) > 0).sum() > 1:
            shares[one.arm] = shares[one.arm] + counts if one.arm in shares else counts
    if not shares:
        return None
    arms = list(shares)[:MOST_EMOTION_ARMS]
    order = sorted(vocabulary.labels, key=lambda label: [*FAMILIES, "other"].index(family(label, vocabulary)))
    listed = []
    for arm in arms:
        total = shares[arm].sum(1)
        top = [f"{vocabulary.labels[i]} {100 * total[i] / total.sum():.0f} %" for i in np.argsort(-total)[:3]]
        listed.append(f"{arm} mostly shows {', '.join(top)}.")
    return Figure(
        "emotion_use",
        "Emotions shown over the rounds",
        "Share of focal turns of each round that show each emotion (rounds with fewer than "
        f"{FEWEST_TURNS} turns stay empty), for {words(list(shares))}. {' '.join(listed)}",
        partial(_draw_emotions, {arm: shares[arm] for arm in arms}, order, vocabulary),
    )


def _emotion_counts(one: ArmResult, vocabulary: Vocabulary) -> np.ndarray:
    """(labels, rounds)"""
    counts = np.zeros((len(vocabulary), MAX_ROUNDS))
    for episode in valid(one.episodes):
        for turn in episode.focal_turns:
            if turn.emotion in vocabulary and turn.round <= MAX_ROUNDS:
                counts[vocabulary.index(turn.emotion or ""), turn.round - 1] += 1
    return counts


def _draw_emotions(
    counts: Mapping[str, np.ndarray], order: Sequence[str], vocabulary: Vocabulary, canvas: Canvas
) -> None:
    rows = [vocabulary.index(label) for label in order]
    kinds = [family(label, vocabulary) for label in order]
    grid = panels(canvas, len(counts), 4, (2.9, 0.9 + 0.165 * len(order)))
    shares = {arm: _shares(found)[rows] for arm, found in counts.items()}
    last = max(int(np.flatnonzero(found.sum(0) >= FEWEST_TURNS).max(initial=0)) for found in counts.values())
    scale = PowerNorm(0.5, 0, max([0.1, *(float(np.nanmax(share, initial=0)) for share in shares.values())]))
    for axes, (arm, share) in zip(grid, shares.items(), strict=True):
        image = axes.imshow(share, cmap="cividis", norm=scale, aspect="auto", interpolation="nearest")
        for i in (i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]):
            axes.axhline(i - 0.5, color="white", linewidth=1.6)
        axes.set_yticks(range(len(order)), order, fontsize=8.5)
        axes.set_xticks(range(0, last + 1, 2), [str(i + 1) for i in range(0, last + 1, 2)])
        axes.set_xlim(-0.5, last + 0.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(arm)
    canvas.supxlabel("round", fontsize=10)
    bar = canvas.colorbar(image, ax=grid, shrink=0.6, label="share of the round's focal turns")
    bar.outline.set_visible(False)


def _shares(counts: np.ndarray) -> np.ndarray:
    """(labels, rounds) shares of each round; nan where it has too few turns."""
    turns = counts.sum(0)
    return np.where(turns >= FEWEST_TURNS, counts / np.maximum(turns, 1), np.nan)


def offer_trajectories(results: Sequence[ArmResult]) -> Figure | None:
    """Mean position of each side by round, and the middle four fifths of episodes; a row of panels for each arm.

    An episode that is over stays where it ended, so every round stands for the same episodes. None without episodes.
    """
    episodes: dict[str, list[Episode]] = {}
    for one in results:
        episodes.setdefault(one.arm, []).extend(e for e in valid(one.episodes) if e.turns)
    arms = [arm for arm, found in episodes.items() if found][:MOST_TRAJECTORY_ARMS]
    if not arms:
        return None
    domains = sorted({episode.scenario.domain for arm in arms for episode in episodes[arm]})
    last = {arm: np.nanmean([_standing_positions(e, other(FOCAL))[-1] for e in episodes[arm]]) for arm in arms}
    listed = ", ".join(f"{arm} {value:.2f}" for arm, value in last.items())
    return Figure(
        "offer_trajectories",
        "Offers over the rounds",
        "Position of both sides' standing offers by round, 1 at the focal side's target and 0 at the counterparty's, "
        f"for {words(arms)} in {words(domains)}; an episode that is over stays where it ended. Where the counterparty "
        f"ends on average: {listed}.",
        partial(_draw_trajectories, {arm: episodes[arm] for arm in arms}, domains),
    )


def _standing_positions(episode: Episode, side: Side) -> list[float]:
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


def _draw_trajectories(episodes: Mapping[str, list[Episode]], domains: Sequence[str], canvas: Canvas) -> None:
    canvas.set_layout_engine("constrained")
    canvas.set_size_inches(0.9 + 2.4 * len(domains), 0.9 + 1.5 * len(episodes))
    grid = canvas.subplots(len(episodes), len(domains), sharex=True, sharey=True, squeeze=False)
    for line, (arm, found) in zip(grid, episodes.items(), strict=True):
        for axes, domain in zip(line, domains, strict=True):
            _draw_positions(axes, [episode for episode in found if episode.scenario.domain == domain])
            if axes in grid[0]:
                axes.set_title(domain)
        line[0].set_ylabel(arm.replace("_", "\n") if len(arm) > 14 else arm, fontsize=9.5)
    last = max(episode.turns[-1].round for found in episodes.values() for episode in found)
    grid[0][0].set_xlim(0.5, last + 1.5)
    canvas.supxlabel("round", fontsize=10)
    canvas.supylabel("position (1: the focal side's target, 0: the counterparty's)", fontsize=10)
    handles, labels = grid[0][0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper right", ncols=2)


def _draw_positions(axes: Axes, episodes: list[Episode]) -> None:
    rounds = np.arange(1, MAX_ROUNDS + 1)
    for side, (colour, label, dashes) in SIDES.items():
        paths = np.array([_standing_positions(episode, side) for episode in episodes])
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
