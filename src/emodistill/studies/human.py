"""Emotion and outcome among people: the CaSiNo dialogues, with the statistics of the other studies.

The unit is the dialogue, whose two sides are not independent: intervals resample dialogues, and p deals what the two
sides of a dialogue showed to other dialogues. Differences are between people who chose to show something, often because
of how things went: they say nothing about what showing it does.

Shapes: D dialogues of two sides, E emotions, O outcomes, B resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.data.casino.dialogues import Dialogue
from emodistill.data.casino.episodes import EMOTICONS
from emodistill.data.casino.outcomes import OUTCOMES, people_of
from emodistill.data.casino.reading import read_dialogues
from emodistill.errors import UserError
from emodistill.evaluation.intervals import stretched
from emodistill.evaluation.results import Findings, Played
from emodistill.evaluation.statistics import ALPHA, RESAMPLES, correct
from emodistill.reporting.figures.intervals import Estimate, interval_plot
from emodistill.reporting.table import Column, Table

_COLUMNS = [
    Column("emotion", "showed", "text"),
    Column("outcome", "outcome", "text"),
    Column("showed", "people who did", "count"),
    Column("others", "who did not", "count"),
    Column("difference_interval", "difference [95 %]", "interval"),
    Column("effect_size", "effect size d"),
    Column("p_value", "p", digits=4),
    Column("p_holm", "p (Holm)", digits=4),
]
_RULE = (
    "The rule, fixed before the numbers: people who show an emotion come out differently where p (Holm, over all "
    f"emotions and outcomes) is below {ALPHA:g}. It is an association, and says nothing about what showing it does."
)


@dataclass(frozen=True)
class Human:
    """Every emoticon against every outcome. It plays nothing.

    Attributes:
        files: the JSON files of the corpus (https://github.com/kushalchawla/CaSiNo, folder data/split).
    """

    files: Sequence[str]
    seed: int = 0
    resamples: int = RESAMPLES

    def __call__(self, played: Sequence[Played] = ()) -> Findings:
        files = [self.files] if isinstance(self.files, str) else list(self.files)
        missing = [file for file in files if not Path(file).is_file()]
        if missing or not files:
            raise UserError(
                f"study=human needs the dialogues of people: {missing[0] if missing else 'no file'} is not here; "
                "download casino_train.json from https://github.com/kushalchawla/CaSiNo (data/split) and give "
                "study.files=[PATH/casino_train.json]"
            )
        dialogues = read_dialogues(files)
        rows = compared(dialogues, self.seed, self.resamples)
        people = 2 * len(dialogues)
        note = (
            f"{len(dialogues)} dialogues of {people} people; the unit is the dialogue: 95 % intervals by resampling "
            "dialogues, p by dealing what was shown to other dialogues, Holm's correction over this table. d: "
            "difference over the pooled standard deviation."
        )
        estimates = [Estimate(r["outcome"], r["emotion"], *r["standardised"]) for r in rows]
        figure = interval_plot(
            "people", "People who show an emotion", estimates, "difference in standard deviations", 0
        )
        table = Table("people", "Emotions and outcomes among people", _COLUMNS, rows, note)
        return Findings([table], [figure], [_RULE, *_verdicts(rows)])


def compared(dialogues: Sequence[Dialogue], seed: int, resamples: int) -> list[dict[str, Any]]:
    """Mean outcome of those who showed an emotion less that of the others, for every emotion and outcome."""
    emotions = tuple(EMOTICONS.values())
    did, outcomes = people_of(dialogues, emotions)
    share = np.full(len(dialogues), 1 / len(dialogues))
    weights = np.random.default_rng(seed).multinomial(len(dialogues), share, size=resamples).astype(np.float64)
    p_values = permutation_p(did, outcomes, seed, resamples)
    rows = [
        {"emotion": emotion, "outcome": outcome, "p_value": float(p_values[i, j])}
        | _difference(did[:, :, i], outcomes[:, :, j], weights)
        for i, emotion in enumerate(emotions)
        for j, outcome in enumerate(OUTCOMES)
    ]
    correct(rows)
    return rows


def permutation_p(did: np.ndarray, outcomes: np.ndarray, seed: int, shuffles: int) -> np.ndarray:
    """Two-sided p of no connection between showing and outcome, (D, 2, E) and (D, 2, O) -> (E, O).

    What the two sides of a dialogue showed stays together, and so does what came of it; only which goes with which is
    shuffled. As many people show an emotion in every shuffle, so the sum of their outcomes stands for the difference.
    nan where nobody shows it, or everybody does.
    """
    rng = np.random.default_rng(seed)
    apart = outcomes - outcomes.mean((0, 1))  # the sums have mean 0 under the null hypothesis
    flat = apart.reshape(-1, apart.shape[-1])

    def sums(shown: np.ndarray) -> np.ndarray:
        totals: np.ndarray = np.abs(shown.reshape(-1, shown.shape[-1]).T.astype(np.float64) @ flat)  # (E, O)
        return totals

    found = sums(did) - 1e-9
    as_far = np.sum([sums(did[rng.permutation(len(did))]) >= found for _ in range(shuffles)], axis=0)
    p_values: np.ndarray = (1 + as_far) / (1 + shuffles)
    p_values[did.all((0, 1)) | ~did.any((0, 1))] = np.nan
    return p_values


def _difference(did: np.ndarray, values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Both groups' difference, (D, 2) each, with its interval by resampling dialogues, (B, D), and effect size."""
    counted = {"showed": int(did.sum()), "others": int((~did).sum())}
    if did.all() or not did.any():
        nothing = [float("nan")] * 3
        return {**counted, "difference_interval": nothing, "effect_size": float("nan"), "standardised": nothing}
    sums = np.stack([(values * did).sum(1), did.sum(1), (values * ~did).sum(1), (~did).sum(1)], axis=1)
    found, drawn = float(_apart(sums.sum(0, keepdims=True))[0]), _apart(weights @ sums)
    low, high = stretched(drawn[np.isfinite(drawn)], found, len(did), symmetric=True)
    interval = [found, float(low), float(high)]
    pooled = float(np.sqrt((values[did].var() * did.sum() + values[~did].var() * (~did).sum()) / did.size))
    scaled = [end / pooled if pooled > 0 else float("nan") for end in interval]
    return {**counted, "difference_interval": interval, "effect_size": scaled[0], "standardised": scaled}


def _apart(sums: np.ndarray) -> np.ndarray:
    """(N, 4) -> (N,); nan where one of the two groups is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart: np.ndarray = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    return apart


def _verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    clear = [row for row in rows if row["p_holm"] < ALPHA]
    if not clear:
        return ["No emotion goes with another outcome beyond noise."]
    return [
        f"People who show {row['emotion']}: {row['outcome']} {row['difference_interval'][0]:+.2f} "
        f"[{row['difference_interval'][1]:+.2f}, {row['difference_interval'][2]:+.2f}] "
        f"(p {row['p_holm']:.4f} after Holm)."
        for row in clear
    ]
