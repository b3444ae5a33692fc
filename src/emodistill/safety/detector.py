"""Finds threats, guilt-tripping, false urgency, insults and what is unfit for minors in what is said (docs/safety.md).

It reads words, not minds: patterns of `assets/safety/patterns.yaml`, the same for every speaker and domain. Its own
error is measured by `python -m emodistill.safety`, and every rate of it should be read beside that error.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, cast, get_args

import yaml

from emodistill.errors import UserError

# ---- phrases ----
# The small language of the detector's patterns: rows of words with alternatives, gaps and word lists.
#
# Texts are brought into one form first: lower case, contractions written out, one space after every word, a point where a
# sentence ends. A pattern is compiled to a regular expression over that form, and to the words of which a text must have
# one to match at all. That index is what makes the detector fast: most patterns are never tried on most texts.

NEGATIONS = ("not", "never", "nobody", "without", "neither", "nor", "hardly", "none")
_TOKEN = re.compile(r"\d+(?:[:.,]\d+)*|\b[Nn]o[ -]one\b|[^\W_]+(?:['’][^\W_]+)*|[.!?…;:\n]")
_ELEMENT = re.compile(
    r"\s*(?:(?P<gap>[~*]\d+)|(?P<edge>[\^$])|<(?P<list>\w+)>|(?P<group>\()|(?P<word>[^\s()<>|?^$~]+))"
)
_WHOLE = {
    "no one": "nobody",
    "no-one": "nobody",
    "cannot": "can not",
    "can't": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "gonna": "going to",
}
_IS = ("it", "that", "what", "who", "there", "here", "he", "she", "how", "where", "nobody", "everybody", "this", "let")
_ENDINGS = {"n't": "not", "'re": "are", "'ll": "will", "'ve": "have", "'m": "am", "'d": "would"}


@dataclass(frozen=True, slots=True)
class Plain:
    """A text in the form that patterns are made for, and where its words stood in the original."""

    text: str
    starts: list[int]  # of each word in `text`
    spans: list[tuple[int, int]]  # of each word in the original

    def original(self, start: int, end: int) -> tuple[int, int]:
        """From a span of the plain text to one of the original."""
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, end - 1) - 1
        return self.spans[first][0], self.spans[last][1]


def plain(text: str) -> Plain:
    """Bring a text into the plain form."""
    words, starts, spans, at = ["."], [0], [(0, 0)], 2
    for match in _TOKEN.finditer(text):
        for word in _written_out(match[0].lower()):
            words.append(word)
            starts.append(at)
            spans.append(match.span())
            at += len(word) + 1
    return Plain(" ".join([*words, ". "]), starts, spans)


def _written_out(token: str) -> Sequence[str]:
    if not token[0].isalnum():
        return (".",)
    if token in _WHOLE:
        return _WHOLE[token].split()
    if "'" not in token and "’" not in token:
        return (token,)
    token = token.replace("’", "'")
    if token in _WHOLE:
        return _WHOLE[token].split()
    for ending, word in _ENDINGS.items():
        if token.endswith(ending):
            return (token.removesuffix(ending), word)
    stem = token.removesuffix("'s")
    return (stem, "us" if stem == "let" else "is") if stem != token and stem in _IS else (token,)


@dataclass(frozen=True, slots=True)
class Phrase:
    """One compiled pattern.

    Attributes:
        source: as it was written.
        cues: a text without any of these words cannot match.
    """

    source: str
    expression: re.Pattern[str]
    cues: frozenset[str]


def compile_phrase(source: str, lists: Mapping[str, Sequence[str]]) -> Phrase:
    """Read a pattern.

    Raises:
        UserError: if it is not of the language, names no list that there is, or has no word that it needs.
    """
    expression, cues, rest = _sequence(source, lists, source)
    if rest or not cues:
        raise UserError(f"the pattern '{source}' {'cannot be read' if rest else 'needs a word'}; see docs/safety.md")
    best = max(cues, key=lambda words: (min(map(len, words)), -len(words)))
    return Phrase(source, re.compile(f"(?<= ){expression}"), best)


def _sequence(rest: str, lists: Mapping[str, Sequence[str]], source: str) -> tuple[str, list[frozenset[str]], str]:
    """Regular expression, the word sets of which each is needed, and what is left at `|` or `)`."""
    expression, cues = "", list[frozenset[str]]()
    while rest.strip() and rest.lstrip()[0] not in "|)":
        match = _ELEMENT.match(rest)
        if match is None:
            raise UserError(f"the pattern '{source}' cannot be read at '{rest.strip()}'; see docs/safety.md")
        part, words, rest = _element(match, rest[match.end() :], lists, source)
        if optional := rest.startswith("?"):
            part, rest = f"(?:{part})?", rest[1:]
        expression += part
        if words and not optional:
            cues.append(words)
    return expression, cues, rest


def _element(
    match: re.Match[str], rest: str, lists: Mapping[str, Sequence[str]], source: str
) -> tuple[str, frozenset[str], str]:
    if match["gap"]:
        barred = "|".join((*NEGATIONS, r"\.") if match["gap"][0] == "~" else (r"\.",))
        return rf"(?:(?!(?:{barred}) )[^ ]+ ){{0,{match['gap'][1:]}}}?", frozenset(), rest
    if match["edge"]:
        return (r"(?<=\. )" if match["edge"] == "^" else r"(?=\. )"), frozenset(), rest
    if match["list"]:
        if match["list"] not in lists:
            raise UserError(f"the pattern '{source}' names <{match['list']}>; lists are {', '.join(lists)}")
        entries = [str(entry) for entry in lists[match["list"]]]
        longest_first = sorted(entries, key=len, reverse=True)
        return f"(?:{'|'.join(_words(entry) for entry in longest_first)})", frozenset(map(_cue, entries)), rest
    if match["word"]:
        return _words(match["word"]), frozenset({match["word"]}), rest
    return _group(rest, lists, source)


def _group(rest: str, lists: Mapping[str, Sequence[str]], source: str) -> tuple[str, frozenset[str], str]:
    options, cues = list[str](), list[frozenset[str]]()
    while True:
        option, needed, rest = _sequence(rest, lists, source)
        options.append(option)
        cues.append(max(needed, key=lambda words: min(map(len, words))) if needed else frozenset())
        rest = rest.lstrip()
        if not rest:
            raise UserError(f"the pattern '{source}' lacks a closing bracket")
        closed, rest = rest[0] == ")", rest[1:]
        if closed:
            return f"(?:{'|'.join(options)})", frozenset().union(*cues) if all(cues) else frozenset(), rest


def _words(entry: str) -> str:
    return "".join(f"{re.escape(word)} " for word in entry.split())


def _cue(entry: str) -> str:
    return max(entry.split(), key=len)


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
