"""Finds threats, guilt-tripping, false urgency, insults and what is unfit for minors in what is said (docs/safety.md).

It reads words, not minds: patterns of `assets/safety/patterns.yaml`, the same for every speaker and domain. Its own
error is measured by `python -m emodistill.safety`, and every rate of it should be read beside that error.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, cast, get_args

import yaml

from emodistill.errors import UserError
from emodistill.safety.phrases import NEGATIONS, Phrase, Plain, compile_phrase, plain

Kind = Literal["threat", "guilt_tripping", "false_urgency", "insult", "unfit_for_minors"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_REACH = 4  # words before a match in which a negation lifts it
_CONDITIONS = ("or", "if", "unless", "otherwise", "either", "and", "then")  # a negation before is of another clause


@dataclass(frozen=True, slots=True)
class Match:
    """One find: its kind, the characters `start` to `end` of the text, and the pattern that found it."""

    kind: Kind
    start: int
    end: int
    pattern: str


@dataclass(frozen=True, slots=True)
class Flags:
    """What was found in one text, in the order of the text; empty, and false, where nothing was."""

    matches: tuple[Match, ...] = ()

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(match.kind for match in self.matches)

    def __bool__(self) -> bool:
        return bool(self.matches)


@dataclass(frozen=True)
class _Rules:
    """The patterns of one kind, by their part: `patterns`, `regardless`, `harmless`."""

    definition: str
    parts: Mapping[str, Sequence[Phrase]]


class Detector:
    """Patterns, compiled.

    Args:
        content: what the YAML file holds: `lists` and `kinds`; see its head.

    Raises:
        UserError: if a kind is missing or unknown, or a pattern cannot be read.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        if set(content.get("kinds", {})) != set(KINDS):
            raise UserError(f"the safety patterns must have the kinds {', '.join(KINDS)}")
        lists = content.get("lists", {})
        self._rules: dict[Kind, _Rules] = {kind: _rules(content["kinds"][kind], lists) for kind in KINDS}
        self._index: dict[str, list[tuple[Kind, bool, Phrase]]] = defaultdict(list)
        for kind, rules in self._rules.items():
            for part in ("patterns", "regardless"):
                for phrase in rules.parts[part]:
                    for cue in phrase.cues:
                        self._index[cue].append((kind, part == "patterns", phrase))

    def definition(self, kind: Kind) -> str:
        """What the kind means, in a sentence or two."""
        return self._rules[kind].definition

    def detect(self, texts: Sequence[str]) -> list[Flags]:
        """What is found in each text; the same text has the same flags always."""
        return [self._flags(text) for text in texts]

    def _flags(self, text: str) -> Flags:
        form = plain(text)
        tried, found = set[tuple[Kind, str]](), list[Match]()
        for word in dict.fromkeys(form.text.split()):
            for kind, liftable, phrase in self._index.get(word, ()):
                if (kind, phrase.source) not in tried:
                    tried.add((kind, phrase.source))
                    found += self._matches(form, kind, phrase, liftable)
        return Flags(tuple(sorted(found, key=lambda match: (match.start, match.end, match.kind))))

    def _matches(self, form: Plain, kind: Kind, phrase: Phrase, liftable: bool) -> list[Match]:
        found = []
        for match in phrase.expression.finditer(form.text):
            start, end = match.start(), match.end() - 1
            if not (liftable and _negated(form.text, start)) and not self._harmless(form.text, kind, start, end):
                found.append(Match(kind, *form.original(start, end), phrase.source))
        return found

    def _harmless(self, text: str, kind: Kind, start: int, end: int) -> bool:
        return any(
            match.start() < end and start < match.end()
            for phrase in self._rules[kind].parts["harmless"]
            for match in phrase.expression.finditer(text)
        )


def _rules(kind: Mapping[str, Any], lists: Mapping[str, Sequence[str]]) -> _Rules:
    parts = ("patterns", "regardless", "harmless")
    compiled = {part: [compile_phrase(str(source), lists) for source in kind.get(part, ())] for part in parts}
    return _Rules(" ".join(str(kind["definition"]).split()), compiled)


def _negated(text: str, start: int) -> bool:
    """Whether a negation stands shortly before the match, in its sentence and in its clause."""
    if text[start:].split(" ", 1)[0] in _CONDITIONS:
        return False
    before = text[:start].rsplit(". ", 1)[-1].split()
    return any(word in NEGATIONS for word in before[-_REACH:])


@cache
def default_detector() -> Detector:
    """The detector with the patterns that ship with the package, read once."""
    file = resources.files("emodistill") / "assets" / "safety" / "patterns.yaml"
    return Detector(cast(dict[str, Any], yaml.safe_load(file.read_text(encoding="utf-8"))))


def detect(texts: Sequence[str]) -> list[Flags]:
    """What the default detector finds in each text."""
    return default_detector().detect(texts)
