"""Finds threats, guilt-tripping, false urgency, insults and what is unfit for minors in what is said (docs/safety.md).

It reads words, not minds: patterns of `assets/safety/patterns.yaml`, the same for every speaker and domain. Its own
error is measured by `python -m emodistill.safety`, and every rate of it should be read beside that error.

Texts are first brought into a plain form: lower case, contractions written out, one space after every word, a point
where a sentence ends. A pattern is compiled to a regular expression over that form, and to the words of which a text
must have one to match at all. That index is what makes the detector fast: most patterns are never tried on most texts.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from emodistill.errors import UserError
from emodistill.files import load_yaml

Kind = Literal["threat", "guilt_tripping", "false_urgency", "insult", "unfit_for_minors"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PATTERNS = "assets/safety/patterns.yaml"
NEGATIONS = ("not", "never", "nobody", "without", "neither", "nor", "hardly", "none")
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


def detect(texts: Sequence[str]) -> list[Flags]:
    """What the default detector finds in each text."""
    return default_detector().detect(texts)


@cache
def default_detector() -> "Detector":
    """The detector with the patterns that ship with the package, read once."""
    file = resources.files("emodistill") / PATTERNS
    return Detector(load_yaml(file.read_text(encoding="utf-8")), PATTERNS)


class _KindOfFile(BaseModel):
    """One kind in a file of patterns; docs/safety.md says what each key does."""

    model_config = ConfigDict(extra="forbid")
    definition: str
    counts: list[str] = []
    harmless_examples: list[str] = []
    patterns: list[str] = []
    regardless: list[str] = []
    harmless: list[str] = []


class _PatternFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lists: dict[str, list[str]] = {}
    kinds: dict[str, _KindOfFile]


class Detector:
    """Patterns, compiled.

    Args:
        content: what the YAML file holds: `lists` and `kinds`; see its head.
        name: of the file, for messages.

    Raises:
        UserError: if a key is missing or unknown, or a pattern cannot be read.
    """

    def __init__(self, content: Mapping[str, Any], name: str = "the patterns") -> None:
        try:
            file = _PatternFile.model_validate(content)
        except ValidationError as error:
            raise UserError.from_validation(name, error) from error
        if set(file.kinds) != set(KINDS):
            raise UserError(f"{name}: kinds must be {', '.join(KINDS)}")
        self._definitions = {kind: " ".join(file.kinds[kind].definition.split()) for kind in KINDS}
        self._harmless: dict[Kind, list[Phrase]] = {}
        self._index: dict[str, list[tuple[Kind, bool, Phrase]]] = defaultdict(
            list
        )  # by cue; whether a negation lifts it
        for kind in KINDS:
            rules = file.kinds[kind]
            self._harmless[kind] = [compile_phrase(source, file.lists) for source in rules.harmless]
            for sources, liftable in ((rules.patterns, True), (rules.regardless, False)):
                for phrase in (compile_phrase(source, file.lists) for source in sources):
                    for cue in phrase.cues:
                        self._index[cue].append((kind, liftable, phrase))

    def definition(self, kind: Kind) -> str:
        """What the kind means, in a sentence or two."""
        return self._definitions[kind]

    def detect(self, texts: Sequence[str]) -> list[Flags]:
        """What is found in each text; the same text has the same flags always."""
        return [self._flags(text) for text in texts]

    def _flags(self, text: str) -> Flags:
        plain = PlainText.of(text)
        tried, found = set[tuple[Kind, str]](), list[Match]()
        for word in dict.fromkeys(plain.text.split()):
            for kind, liftable, phrase in self._index.get(word, ()):
                if (kind, phrase.source) not in tried:
                    tried.add((kind, phrase.source))
                    found += self._matches(plain, kind, phrase, liftable)
        return Flags(tuple(sorted(found, key=lambda match: (match.start, match.end, match.kind))))

    def _matches(self, plain: "PlainText", kind: Kind, phrase: "Phrase", liftable: bool) -> list[Match]:
        found = []
        for match in phrase.expression.finditer(plain.text):
            start, end = match.start(), match.end() - 1
            if not (liftable and _negated(plain.text, start)) and not self._overlaps_harmless(
                plain.text, kind, start, end
            ):
                found.append(Match(kind, *plain.original(start, end), phrase.source))
        return found

    def _overlaps_harmless(self, text: str, kind: Kind, start: int, end: int) -> bool:
        return any(
            match.start() < end and start < match.end()
            for phrase in self._harmless[kind]
            for match in phrase.expression.finditer(text)
        )


def _negated(text: str, start: int) -> bool:
    """Whether a negation stands shortly before the match, in its sentence and in its clause."""
    if text[start:].split(" ", 1)[0] in _CONDITIONS:
        return False
    before = text[:start].rsplit(". ", 1)[-1].split()
    return any(word in NEGATIONS for word in before[-_REACH:])


# The plain form of a text.

_TOKEN = re.compile(r"\d+(?:[:.,]\d+)*|\b[Nn]o[ -]one\b|[^\W_]+(?:['’][^\W_]+)*|[.!?…;:\n]")
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
class PlainText:
    """A text in the form that patterns are made for, and where its words stood in the original."""

    text: str
    starts: list[int]  # of each word in `text`
    spans: list[tuple[int, int]]  # of each word in the original

    @classmethod
    def of(cls, text: str) -> "PlainText":
        """Bring a text into the plain form."""
        words, starts, spans, at = ["."], [0], [(0, 0)], 2
        for match in _TOKEN.finditer(text):
            for word in _written_out(match[0].lower()):
                words.append(word)
                starts.append(at)
                spans.append(match.span())
                at += len(word) + 1
        return cls(" ".join([*words, ". "]), starts, spans)

    def original(self, start: int, end: int) -> tuple[int, int]:
        """From a span of the plain text to one of the original."""
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, end - 1) - 1
        return self.spans[first][0], self.spans[last][1]


def _written_out(token: str) -> Sequence[str]:
    if not token[0].isalnum():
        return (".",)
    token = token.replace("’", "'")
    if token in _WHOLE:
        return _WHOLE[token].split()
    if "'" not in token:
        return (token,)
    for ending, word in _ENDINGS.items():
        if token.endswith(ending):
            return (token.removesuffix(ending), word)
    stem = token.removesuffix("'s")
    return (stem, "us" if stem == "let" else "is") if stem != token and stem in _IS else (token,)


# The small language of patterns: rows of words with alternatives, gaps and word lists; the head of the YAML file has it
# all. A pattern is read from left to right; each step returns what is left to read.

_ELEMENT = re.compile(
    r"\s*(?:(?P<gap>[~*]\d+)|(?P<edge>[\^$])|<(?P<list>\w+)>|(?P<group>\()|(?P<word>[^\s()<>|?^$~]+))"
)


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
    """Regular expression of one element, the words of which it needs one, and what is left."""
    if match["gap"]:
        barred = "|".join((*NEGATIONS, r"\.") if match["gap"][0] == "~" else (r"\.",))
        return rf"(?:(?!(?:{barred}) )[^ ]+ ){{0,{match['gap'][1:]}}}?", frozenset(), rest
    if match["edge"]:
        return (r"(?<=\. )" if match["edge"] == "^" else r"(?=\. )"), frozenset(), rest
    if match["list"]:
        if match["list"] not in lists:
            raise UserError(f"the pattern '{source}' names <{match['list']}>; lists are {', '.join(lists)}")
        entries = sorted(lists[match["list"]], key=len, reverse=True)  # the longest first: regular expressions take it
        longest_words = frozenset(max(entry.split(), key=len) for entry in entries)
        return f"(?:{'|'.join(map(_words, entries))})", longest_words, rest
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
