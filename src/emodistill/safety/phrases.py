"""The small language of the detector's patterns: rows of words with alternatives, gaps and word lists.

Texts are brought into one form first: lower case, contractions written out, one space after every word, a point where a
sentence ends. A pattern is compiled to a regular expression over that form, and to the words of which a text must have
one to match at all. That index is what makes the detector fast: most patterns are never tried on most texts.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emodistill.errors import UserError

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
