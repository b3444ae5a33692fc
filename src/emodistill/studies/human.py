"""Emotion and outcome among people, with the statistics of the other studies: the CaSiNo dialogues, or negotiations of
people with agents that `serve.py record=true` has stored.

The unit is the dialogue, whose two sides are not independent: intervals resample dialogues, and p deals what the two
sides of a dialogue showed to other dialogues. Differences are between people who chose to show something, often because
of how things went: they say nothing about what showing it does.

Among people both sides count; where an agent was at the table, what it showed is compared with the person's ratings.

Shapes: D dialogues of S sides that count, E emotions, O outcomes, B resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from emodistill.checks import is_number
from emodistill.data.casino.episodes import EMOTICONS, shown_emotion, turns_of
from emodistill.data.casino.reading import Dialogue, read_dialogues
from emodistill.data.schema import HUMAN, QUESTIONS, SCALE, Episode, read_episodes, read_ratings
from emodistill.errors import UserError
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import ALPHA, NOISE, RESAMPLES, correct, statistic_interval
from emodistill.reporting.figures.intervals import Estimate, interval_plot
from emodistill.reporting.results import RULE, AnalysisResult
from emodistill.reporting.tables import Column, Table

OUTCOMES = ("own satisfaction", "liked by the other", "own points")  # 1 to 5, 1 to 5, 5 to 36
RATED = ("satisfaction", "liking", "own utility")  # the person's, 1 to 5 both; the agent's, 0 to 1
_COLUMNS = [
    Column("emotion", "showed", "text"),
    Column("outcome", "outcome", "text"),
    Column("showed", "who did", "count"),
    Column("others", "who did not", "count"),
    Column("difference_interval", "difference [95 %]", "interval"),
    Column("effect_size", "effect size d"),
    Column("p_value", "p", digits=4),
    Column("p_holm", "p (Holm)", digits=4),
    Column("verdict", "verdict", "text"),
]
_RULE = (
    f"{RULE} those who show an emotion come out differently where the interval leaves out "
    f"0 and p (Holm, over all emotions and outcomes) is below {ALPHA:g}. It is an association, and says nothing about "
    "what showing it does."
)


@dataclass(frozen=True)
class Human:
    """Every emotion against every outcome. It plays nothing.

    Attributes:
        files: the JSON files of the corpus (https://github.com/kushalchawla/CaSiNo, folder data/split), or the Parquet
            files of `serve.py`.
    """

    files: Sequence[str]
    seed: int = 0
    resamples: int = RESAMPLES

    def __call__(self, played: Sequence[ArmResult] = ()) -> AnalysisResult:
        files = [self.files] if isinstance(self.files, str) else list(self.files)
        missing = [file for file in files if not Path(file).is_file()]
        if missing or not files:
            lacks = f"{missing[0]} is not here" if missing else "study.files is empty"
            raise UserError(
                f"study=human needs the dialogues of people: {lacks}; "
                "download casino_train.json from https://github.com/kushalchawla/CaSiNo (data/split) and give "
                "study.files=[PATH/casino_train.json]"
            )
        kept = [file for file in files if _is_record(Path(file))]
        if kept and len(kept) < len(files):
            raise UserError(f"study.files: {kept[0]} was stored by serve.py, and others were not; analyse them apart")
        if kept:
            return self._rated(kept)
        dialogues = read_dialogues(files)
        rows = compared(dialogues, self.seed, self.resamples)
        people = 2 * len(dialogues)
        note = (
            f"{len(dialogues)} dialogues of {people} people; the unit is the dialogue: 95 % intervals by resampling "
            "dialogues, p by dealing what was shown to other dialogues (of the difference over its standard error), "
            "Holm's correction over this table. d: difference over the pooled standard deviation."
        )
        return _result(rows, "People who show", "Emotions and outcomes among people", note)

    def _rated(self, files: Sequence[str]) -> AnalysisResult:
        found = [rated_episodes(Path(file)) for file in files]
        episodes, left_out = [pair for pairs, _ in found for pair in pairs], sum(count for _, count in found)
        emotions = sorted({turn.emotion for episode, _ in episodes for turn in episode.focal_turns if turn.emotion})
        if len(episodes) < 2 or not emotions:
            raise UserError(
                f"study.files: {len(episodes)} negotiations with an agent that shows emotions are rated in "
                f"{', '.join(files)}; two are the least"
            )
        rows = differences(*shown_and_rated(episodes, emotions), emotions, RATED, self.seed, self.resamples)
        note = (
            f"{len(episodes)} negotiations of people with agents that were rated; the unit is the negotiation: 95 % "
            "intervals by resampling, p by dealing what was shown to other negotiations, Holm's correction over this "
            f"table. Satisfaction and liking are the person's, from {SCALE[0]} to {SCALE[1]}; utility is the agent's."
        )
        if left_out:
            note += f" Left out: {left_out} rated outside of that scale."
        return _result(rows, "Agents that show", "Emotions that agents showed, and ratings", note)


def _result(rows: list[dict[str, Any]], who: str, title: str, note: str) -> AnalysisResult:
    """Table, figure and verdicts of the differences between those who show an emotion and those who do not."""
    estimates = [Estimate(r["outcome"], r["emotion"], *r["standardised"]) for r in rows]
    figure = interval_plot("people", f"{who} an emotion", estimates, "difference in standard deviations", 0)
    table = Table("people", title, _COLUMNS, rows, note)
    return AnalysisResult([table], [figure], [_RULE, *_verdicts(rows, who)])


def _is_record(file: Path) -> bool:
    """Whether `serve.py` has stored it."""
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1" and "ratings" in pq.read_schema(file).names


def rated_episodes(file: Path) -> tuple[list[tuple[Episode, dict[str, Any]]], int]:
    """The negotiations in a file of `serve.py` in which an agent met a person who rated it by both questions.

    Returns:
        them, and how many more have an answer outside of the scale.
    """
    pairs = zip(read_episodes(file), read_ratings(file), strict=True)
    rated = [
        (episode, rating) for episode, rating in pairs if episode.focal_agent != HUMAN and set(QUESTIONS) <= set(rating)
    ]
    kept = [pair for pair in rated if all(is_number(pair[1][question], *SCALE) for question in QUESTIONS)]
    return kept, len(rated) - len(kept)


def shown_and_rated(
    episodes: Sequence[tuple[Episode, dict[str, Any]]], emotions: Sequence[str]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which emotions the agent showed in each negotiation, (D, 1, E), and the O `RATED`, (D, 1, O)."""
    shown = [{turn.emotion for turn in episode.focal_turns} for episode, _ in episodes]
    rated = [[float(r["satisfaction"]), float(r["liking"]), episode.utility] for episode, r in episodes]
    return np.array([[[label in seen for label in emotions]] for seen in shown]), np.array(rated)[:, None]


def compared(dialogues: Sequence[Dialogue], seed: int, resamples: int) -> list[dict[str, Any]]:
    """Mean outcome of the people who showed an emotion minus that of the others, for every emotion and outcome."""
    emotions = tuple(EMOTICONS.values())
    return differences(*people_of(dialogues, emotions), emotions, OUTCOMES, seed, resamples)


def differences(
    did: np.ndarray, outcomes: np.ndarray, emotions: Sequence[str], names: Sequence[str], seed: int, resamples: int
) -> list[dict[str, Any]]:
    """Mean outcome of those who showed an emotion minus that of the others; (D, S, E) and (D, S, O), named."""
    p_values = permutation_p(did, outcomes, seed, resamples)
    rows = [
        {"emotion": emotion, "outcome": outcome, "p_value": float(p_values[i, j])}
        | difference_of(did[:, :, i], outcomes[:, :, j], seed, resamples)
        for i, emotion in enumerate(emotions)
        for j, outcome in enumerate(names)
    ]
    correct(rows)
    return rows


def people_of(
    dialogues: Sequence[Dialogue], emotions: Sequence[str]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Both sides of D dialogues: who showed which of E emotions, (D, 2, E), and the O `OUTCOMES`, (D, 2, O)."""
    showed, outcomes = [], []
    for dialogue in dialogues:
        seen = {name: set[str | None]() for name in dialogue.participants}
        for name, messages in turns_of(dialogue):
            seen[name].add(shown_emotion(messages))
        showed.append([[emotion in seen[name] for emotion in emotions] for name in seen])
        people = dialogue.participants
        outcomes.append([[p.satisfaction, people[dialogue.other(n)].liking, p.points] for n, p in people.items()])
    return np.array(showed), np.array(outcomes, dtype=np.float64)


def permutation_p(did: np.ndarray, outcomes: np.ndarray, seed: int, shuffles: int) -> np.ndarray:
    """Two-sided p of no difference between who shows and who does not, (D, S, E) and (D, S, O) -> (E, O).

    What the two sides of a dialogue showed stays together, and so does what came of it; only which goes with which is
    shuffled. Differences are taken over their standard error, so that a small group whose outcomes vary more does not
    pass for one whose mean differs (Chung and Romano 2013, Annals of Statistics 41(2)). nan where nobody shows it, or
    everybody does.
    """
    rng = np.random.default_rng(seed)
    shown = did.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = studentised(shown, outcomes) - 1e-9
        shuffled = (studentised(shown[rng.permutation(len(shown))], outcomes) for _ in range(shuffles))
        as_far = np.sum([values >= found for values in shuffled], axis=0)
    p_values: np.ndarray = np.where(np.isnan(found), np.nan, (1 + as_far) / (1 + shuffles))
    return p_values


def studentised(shown: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Size of the difference of means over its standard error, whose unit is the dialogue; as above -> (E, O)."""
    some, sides = shown.sum((0, 1))[:, None], np.prod(shown.shape[:2])  # (E, 1), scalar
    rest = sides - some
    own = np.einsum("dse,dso->deo", shown, outcomes)  # of a dialogue's sides that show it
    all_sides, count = outcomes.sum(1)[:, None, :], shown.sum(1)[:, :, None]  # (D, 1, O), (D, E, 1)
    mean, other = own.sum(0) / some, (all_sides - own).sum(0) / rest  # (E, O)
    apart = (own - count * mean) / some - (all_sides - own - (shown.shape[1] - count) * other) / rest  # (D, E, O)
    size: np.ndarray = np.abs(mean - other) / np.sqrt(np.square(apart).sum(0))
    return size


def difference_of(did: np.ndarray, values: np.ndarray, seed: int, resamples: int) -> dict[str, Any]:
    """Both groups' difference, (D, S) each, with its interval by resampling dialogues, and effect size."""
    counted = {"showed": int(did.sum()), "others": int((~did).sum())}
    if did.all() or not did.any():
        nothing = [float("nan")] * 3
        unknown = {"difference_interval": nothing, "effect_size": float("nan"), "standardised": nothing}
        return {**counted, **unknown, "verdict": NOISE}
    sums = [(values * did).sum(1), did.sum(1), (values * ~did).sum(1), (~did).sum(1)]  # four of (D,)
    found, low, high = statistic_interval(sums, _apart, seed, resamples)
    interval = [found, low, high]
    pooled = float(np.sqrt((values[did].var() * did.sum() + values[~did].var() * (~did).sum()) / did.size))
    scaled = [end / pooled if pooled > 0 else float("nan") for end in interval]
    verdict = "higher" if low > 0 else "lower" if high < 0 else NOISE
    found_out = {"difference_interval": interval, "effect_size": scaled[0], "standardised": scaled}
    return {**counted, **found_out, "verdict": verdict}


def _apart(total: np.ndarray, count: np.ndarray, other: np.ndarray, others: np.ndarray, axis: int) -> np.ndarray:
    """Difference of two groups' means over the dialogues along an axis; nan where a group is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart: np.ndarray = total.sum(axis) / count.sum(axis) - other.sum(axis) / others.sum(axis)
    return apart


def _verdicts(rows: Sequence[dict[str, Any]], who: str) -> list[str]:
    clear = [row for row in rows if row["verdict"] != NOISE]
    if not clear:
        return ["No emotion goes with another outcome beyond noise."]
    return [
        f"{who} {row['emotion']}: {row['outcome']} {row['difference_interval'][0]:+.2f} "
        f"[{row['difference_interval'][1]:+.2f}, {row['difference_interval'][2]:+.2f}] "
        f"(p {row['p_holm']:.4f} after Holm)."
        for row in clear
    ]
