"""The detector's own error on labelled utterances, and what it finds in recorded dialogues, as tables.

docs/safety.md says how the labelled utterances came about. The patterns were tuned on one half of them only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, cast, get_args

import yaml
from statsmodels.stats.proportion import proportion_confint

from emodistill.data.schema import Episode
from emodistill.reporting.tables import Column, Table
from emodistill.safety.detector import KINDS, Detector, Flags, Kind

Half = Literal["development", "held_out"]
HALVES: tuple[Half, ...] = get_args(Half)


@dataclass(frozen=True)
class Labelled:
    """An utterance and the kinds that it is of by the author's judgement; none of them: harmless."""

    text: str
    kinds: frozenset[Kind]


def load_labelled(half: Half) -> list[Labelled]:
    """All utterances of a half, in the order of the file."""
    file = resources.files("emodistill") / "assets" / "safety" / f"labelled_{half}.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [_labelled(heading, entry) for heading, entries in content.items() for entry in entries]


def _labelled(heading: str, entry: str | dict[str, object]) -> Labelled:
    own = frozenset({heading} if heading in KINDS else ())
    if isinstance(entry, str):
        return Labelled(entry, own)
    also = cast(Sequence[Kind], entry["also"])
    return Labelled(str(entry["text"]), own | frozenset(also))


@dataclass(frozen=True)
class Counts:
    """What a detector made of labelled utterances, for one kind."""

    hits: int
    misses: int
    false: int
    passed: int


def count(detector: Detector, utterances: Sequence[Labelled]) -> dict[Kind, Counts]:
    """Hits and errors of a detector for each kind; an utterance of another kind is a negative of this one."""
    found = [flags.kinds for flags in detector.detect([utterance.text for utterance in utterances])]
    counted = {}
    for kind in KINDS:
        pairs = [(kind in one.kinds, kind in kinds) for one, kinds in zip(utterances, found, strict=True)]
        cells = [pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))]
        counted[kind] = Counts(*cells)
    return counted


def harmless_flagged(detector: Detector, utterances: Sequence[Labelled]) -> tuple[int, int]:
    """How many of the harmless utterances are flagged as anything, and how many harmless ones there are."""
    harmless = [utterance.text for utterance in utterances if not utterance.kinds]
    return sum(map(bool, detector.detect(harmless))), len(harmless)


def share(part: int, whole: int) -> tuple[float, float, float]:
    """A proportion with its 95 % Wilson interval; nan where there is nothing to divide by."""
    if not whole:
        return float("nan"), float("nan"), float("nan")
    low, high = proportion_confint(part, whole, method="wilson")
    return part / whole, float(low), float(high)


def error_table(detector: Detector) -> Table:
    """Precision, recall and false positive rate of each kind on both halves of the labelled utterances."""
    rows: list[dict[str, Any]] = []
    for half in HALVES:
        utterances = load_labelled(half)
        for kind, counts in count(detector, utterances).items():
            rows.append(
                {
                    "half": half.replace("_", "-"),
                    "kind": kind,
                    "positives": counts.hits + counts.misses,
                    "recall": share(counts.hits, counts.hits + counts.misses),
                    "precision": share(counts.hits, counts.hits + counts.false),
                    "false": share(counts.false, counts.false + counts.passed),
                }
            )
        flagged, harmless = harmless_flagged(detector, utterances)
        row = {"half": half.replace("_", "-"), "kind": "any, harmless lines", "positives": 0}
        rows.append({**row, "false": share(flagged, harmless)})
    columns = [
        Column("half", "half", "text"),
        Column("kind", "kind", "text"),
        Column("positives", "positives", "count"),
        Column("recall", "recall [95 %]", "interval"),
        Column("precision", "precision [95 %]", "interval"),
        Column("false", "false positives [95 %]", "interval"),
    ]
    note = (
        "Wilson intervals. The patterns were tuned on the development half, so only the held-out half says how they do "
        "on words that nobody tuned them for. Precision depends on the share of positives, here about one in eight."
    )
    return Table("detector_error", "Error of the safety detector", columns, rows, note)


@dataclass(frozen=True)
class Finding:
    """A flagged focal turn: where it stands, its words, and what was found in them."""

    episode: str
    agent: str
    text: str
    flags: Flags


def scan(detector: Detector, episodes: Sequence[Episode]) -> tuple[Table, list[Finding]]:
    """Rates by focal agent, and every flagged focal turn.

    The intervals treat turns as independent; for arms of a study, `studies.safety` resamples scenarios instead.
    """
    rows, findings = list[dict[str, Any]](), list[Finding]()
    for agent in sorted({episode.focal_agent for episode in episodes}):
        mine = [episode for episode in episodes if episode.focal_agent == agent]
        turns = [(episode.episode_id, turn.text) for episode in mine for turn in episode.focal_turns]
        flags = detector.detect([text for _, text in turns])
        findings += [Finding(i, agent, text, f) for (i, text), f in zip(turns, flags, strict=True) if f]
        rates = {kind: share(sum(kind in found.kinds for found in flags), len(flags)) for kind in KINDS}
        anything = share(sum(map(bool, flags)), len(flags))
        row: dict[str, Any] = {"agent": agent, "episodes": len(mine), "turns": len(turns), "any": anything}
        rows.append(row | dict(rates))
    columns = [
        Column("agent", "focal agent", "text"),
        Column("episodes", "episodes", "count"),
        Column("turns", "focal turns", "count"),
        Column("any", "any kind", "interval", 4),
        *(Column(kind, kind.replace("_", " "), "interval", 4) for kind in KINDS),
    ]
    note = "Wilson intervals over turns. Read them beside the detector's own error: python -m emodistill.safety."
    return Table("scan", "Share of focal turns that are flagged", columns, rows, note), findings
