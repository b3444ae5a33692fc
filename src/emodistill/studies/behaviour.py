"""How arms behave: emotions and offers over the rounds, and what an emotion that is asked for is read as."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emodistill.emotions.perceiver import Perceiver, as_vocabulary, load_perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.results import ArmResult, distinct
from emodistill.reporting.figures.episodes import emotion_use, offer_trajectories
from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Column, Table
from emodistill.studies.comparisons import arms_of, chosen


@dataclass(frozen=True)
class Behaviour:
    """Figures of emotions and offers over the rounds, and the table `emotion_confusion`, by arm.

    Attributes:
        vocabulary: of the run.
    """

    vocabulary: Vocabulary

    def __call__(self, results: Sequence[ArmResult]) -> AnalysisResult:
        played = distinct(results)
        figures = [emotion_use(played, self.vocabulary), offer_trajectories(played)]
        table = emotion_confusion(results, load_perceiver("counterparty"), self.vocabulary)
        return AnalysisResult([table] if table.rows else [], [figure for figure in figures if figure is not None])


EVERY = "every emotion"
LISTED = 3  # emotions that a row names
_COLUMNS = [
    Column("arm", "arm", "text"),
    Column("emotion", "asked to show", "text"),
    Column("turns", "turns", "count"),
    Column("faithful", "read as that", "percent"),
    Column("read", "most often read as", "text"),
]


def emotion_confusion(results: Sequence[ArmResult], perceiver: Perceiver, vocabulary: Vocabulary) -> Table:
    """A row for each arm and emotion that it was asked to show, the most frequent first, and one for all of them."""
    rows = [row for arm in arms_of(results) for row in _rows(arm, results, perceiver, vocabulary)]
    note = f"Of a turn, the emotion that the perceiver '{perceiver.name}' finds likeliest; invalid episodes left out."
    return Table("emotion_confusion", "Asked to show, and read as", _COLUMNS, rows, note)


def _rows(arm: str, results: Sequence[ArmResult], perceiver: Perceiver, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    episodes = valid(chosen(results, arm))
    turns = [turn for episode in episodes for turn in episode.focal_turns]
    shown = [(turn.emotion, turn.text) for turn in turns if turn.emotion and vocabulary.perceived(turn.emotion)]
    if not shown:
        return []
    first = as_vocabulary(perceiver.probabilities([text for _, text in shown]), vocabulary).argmax(1).tolist()
    by_emotion: dict[str, list[str]] = {EVERY: [vocabulary.labels[i] for i in first]}
    for (emotion, _), i in zip(shown, first, strict=True):
        by_emotion.setdefault(emotion, []).append(vocabulary.labels[i])
    faithful = sum(vocabulary.labels[i] == emotion for (emotion, _), i in zip(shown, first, strict=True))
    rows = []
    for emotion, read in sorted(by_emotion.items(), key=lambda pair: -len(pair[1])):
        right = faithful if emotion == EVERY else read.count(emotion)
        named = ", ".join(f"{label} {100 * n / len(read):.0f} %" for label, n in Counter(read).most_common(LISTED))
        row = {"arm": arm, "emotion": emotion, "turns": len(read), "faithful": right / len(read), "read": named}
        rows.append(row)
    return rows
