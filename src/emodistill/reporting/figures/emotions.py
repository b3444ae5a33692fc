"""Which emotions each arm shows, and when."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Canvas

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.negotiation.protocol import MAX_ROUNDS
from emodistill.reporting.figure import Figure
from emodistill.reporting.figures.style import panels, words

if TYPE_CHECKING:
    from emodistill.evaluation.results import Played

MOST_ARMS = 8
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


def emotion_use(played: "Sequence[Played]", vocabulary: Vocabulary) -> Figure | None:
    """Shares of emotions by round, a panel for each arm that changes its emotion; None where no arm does."""
    shares: dict[str, np.ndarray] = {}
    for item in played:
        counts = _counts(item, vocabulary)
        if (counts.sum(1) > 0).sum() > 1:
            shares[item.arm] = shares[item.arm] + counts if item.arm in shares else counts
    if not shares:
        return None
    arms = list(shares)[:MOST_ARMS]
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
        partial(_draw, {arm: shares[arm] for arm in arms}, order, vocabulary),
    )


def _counts(item: "Played", vocabulary: Vocabulary) -> np.ndarray:
    """(labels, rounds)"""
    counts = np.zeros((len(vocabulary), MAX_ROUNDS))
    for episode in item.episodes:
        for turn in episode.focal_turns:
            if turn.emotion in vocabulary and turn.round <= MAX_ROUNDS:
                counts[vocabulary.index(turn.emotion or ""), turn.round - 1] += 1
    return counts


def _draw(counts: dict[str, np.ndarray], order: list[str], vocabulary: Vocabulary, canvas: Canvas) -> None:
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
