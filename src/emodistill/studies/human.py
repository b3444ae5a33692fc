"""Emotion and outcome among people: the CaSiNo dialogues, with the statistics of the other studies.

The unit is the dialogue, whose two sides are not independent. Differences are between people who chose to show
something, often because of how things went: they say nothing about what showing it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from emodistill.data.casino.dialogues import Dialogue
from emodistill.data.casino.episodes import EMOTICONS, shown, turns_of
from emodistill.data.casino.outcomes import OUTCOMES
from emodistill.data.casino.reading import read_dialogues
from emodistill.errors import UserError
from emodistill.evaluation.results import Findings, Played
from emodistill.evaluation.statistics import ALPHA, RESAMPLES, holm
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
            f"{len(dialogues)} dialogues of {people} people; the unit is the dialogue: 95 % intervals and p by "
            "resampling dialogues, Holm's correction over this table. d: difference over the pooled standard deviation."
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
    did, outcomes = people_of(dialogues, emotions)  # (D, 2, E), (D, 2, O)
    share = np.full(len(dialogues), 1 / len(dialogues))
    weights = np.random.default_rng(seed).multinomial(len(dialogues), share, size=resamples).astype(np.float64)
    rows = []
    for i, emotion in enumerate(emotions):
        for j, outcome in enumerate(OUTCOMES):
            row = _difference(did[:, :, i], outcomes[:, :, j], weights)
            rows.append({"emotion": emotion, "outcome": outcome, **row})
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def people_of(dialogues: Sequence[Dialogue], emotions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Who showed what, (D, 2, E) bool, and what came of it, (D, 2, O)."""
    did, outcomes = [], []
    for dialogue in dialogues:
        seen: dict[str, set[str | None]] = {name: set() for name in dialogue.participants}
        for name, messages in turns_of(dialogue):
            seen[name].add(shown(messages))
        did.append([[emotion in seen[name] for emotion in emotions] for name in seen])
        people = dialogue.participants
        outcomes.append([[p.satisfaction, people[dialogue.other(n)].liking, p.points] for n, p in people.items()])
    return np.array(did), np.array(outcomes, dtype=np.float64)


def _difference(did: np.ndarray, values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Both groups' difference, (D, 2) each, with interval, effect size and p by resampling dialogues, (B, D)."""
    sums = np.stack([(values * did).sum(1), did.sum(1), (values * ~did).sum(1), (~did).sum(1)], axis=1)
    found = float(_apart(sums.sum(0, keepdims=True))[0])
    drawn = _apart(weights @ sums)
    drawn = drawn[np.isfinite(drawn)]
    counted = {"showed": int(did.sum()), "others": int((~did).sum())}
    if not np.isfinite(found) or len(drawn) < 2:
        unknown = [float("nan")] * 3
        nothing = {"effect_size": float("nan"), "p_value": float("nan"), "standardised": unknown}
        return {**counted, "difference_interval": unknown, **nothing}
    low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975]))
    spread = float(np.sqrt((values[did].var() * did.sum() + values[~did].var() * (~did).sum()) / did.size))
    error = float(drawn.std())
    p = float(2 * stats.norm.sf(abs(found) / error)) if error > 0 else 1.0
    interval = [found, low, high]
    scaled = [end / spread if spread > 0 else float("nan") for end in interval]
    return {**counted, "difference_interval": interval, "effect_size": scaled[0], "p_value": p, "standardised": scaled}


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
