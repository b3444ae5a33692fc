"""The labelled utterances by which the detector is measured; see docs/safety.md for how they came about."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, cast, get_args

import yaml

from emodistill.safety.detector import KINDS, Detector, Kind

Half = Literal["development", "held_out"]
HALVES: tuple[Half, ...] = get_args(Half)


@dataclass(frozen=True)
class Labelled:
    """An utterance and the kinds that it is of by the author's judgement; none of them: harmless."""

    text: str
    kinds: frozenset[Kind]


@dataclass(frozen=True)
class Counts:
    """What a detector made of labelled utterances, for one kind."""

    hits: int
    misses: int
    false: int
    passed: int


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
