"""Do people who show an emotion come out of a negotiation differently? The check that the import is right.

For each emotion: the mean outcome of those who showed it at least once minus that of those who never did, with a 95 %
interval by bootstrap over dialogues (the two sides of one dialogue are not independent). These are differences between
people who chose to show something, often because of how things went: they say nothing about what showing it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emodistill.data.casino.dialogues import Dialogue
from emodistill.data.casino.episodes import EMOTICONS, shown, turns_of

RESAMPLES = 10_000
OUTCOMES = ("own satisfaction", "liked by the other", "own points")
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutcomeDifference:
    """Mean outcome of those who showed an emotion minus that of those who did not; nan where nobody, or everybody, did.

    Attributes:
        outcome: one of `OUTCOMES`: satisfaction 1 to 5, how much the other one likes them 1 to 5, points 5 to 36.
        showed: how many people showed the emotion; `others` how many did not.
        interval: 95 %, by bootstrap over dialogues.
    """

    emotion: str
    outcome: str
    showed: int
    others: int
    difference: float
    interval: tuple[float, float]


def emotion_outcomes(dialogues: Sequence[Dialogue], seed: int = 0) -> list[OutcomeDifference]:
    """Every emotion with every outcome, in the order of `EMOTICONS` and `OUTCOMES`."""
    emotions = tuple(EMOTICONS.values())
    showed, outcomes = _people(dialogues, emotions)
    share = np.full(len(dialogues), 1 / len(dialogues))
    weights = np.random.default_rng(seed).multinomial(len(dialogues), share, size=RESAMPLES).astype(np.float64)
    found = []
    for i, emotion in enumerate(emotions):
        did = showed[:, :, i]
        for j, outcome in enumerate(OUTCOMES):
            sums = _sums(did, outcomes[:, :, j])
            spread = _differences(weights @ sums)
            known = spread[np.isfinite(spread)]
            low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
            difference = float(_differences(sums.sum(0, keepdims=True))[0])
            count = int(did.sum())
            row = (emotion, outcome, count, did.size - count, difference, (float(low), float(high)))
            found.append(OutcomeDifference(*row))
    return found


def _people(dialogues: Sequence[Dialogue], emotions: Sequence[str]) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Who showed what, (dialogues, 2, emotions), and what came of it, (dialogues, 2, outcomes)."""
    showed, outcomes = [], []
    for dialogue in dialogues:
        seen = {name: set[str | None]() for name in dialogue.participants}
        for name, messages in turns_of(dialogue):
            seen[name].add(shown(messages))
        showed.append([[emotion in seen[name] for emotion in emotions] for name in seen])
        people = dialogue.participants
        outcomes.append([[p.satisfaction, people[dialogue.other(n)].liking, p.points] for n, p in people.items()])
    return np.array(showed), np.array(outcomes, dtype=np.float64)


def _sums(did: npt.NDArray[np.bool_], values: FloatArray) -> FloatArray:
    """For each dialogue: sum and number of those who did, sum and number of those who did not, (dialogues, 4)."""
    return np.stack([(values * did).sum(1), did.sum(1), (values * ~did).sum(1), (~did).sum(1)], axis=1)


def _differences(sums: FloatArray) -> FloatArray:
    """(N, 4) -> (N,); nan where one of the two groups is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        difference: FloatArray = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    return difference
