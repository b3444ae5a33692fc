"""How an utterance is worded: length, repetition, and the slips that mark words no negotiator would say."""

import re
from collections.abc import Iterable, Sequence

from emodistill.negotiation.domains import Domain

_WORD = re.compile(r"[^\W_][\w']*")
_NUMBER = re.compile(r"\d+")
_META = re.compile(
    r"\b(?:score|rating)\s*(?:[:=]|is)?\s*\d+|\b\d+\s*(?:/|out of)\s*10\b|\brubric\b|"
    r"\b(?:ignore|disregard)\b.{0,30}\binstructions?\b|\bas an ai\b|\blanguage model\b|"
    r"<\|?\w+\|?>|\blet your words show\b"
)
_GENERIC_ROLES = ("user", "assistant", "system", "counterparty", "focal", "negotiator", "judge")
_NGRAM = 4


def words(text: str) -> list[str]:
    """The words in lower case, every number alike: an offer formula with another number is a repetition still."""
    return [_NUMBER.sub("0", word) for word in _WORD.findall(text.lower().replace("\u2019", "'"))]


def length(text: str) -> float:
    """0 to 1: one short paragraph is right; below 6 words too little, from 60 to 160 words more and more of a ramble.

    Words said over and over count against it too: stuffing a text with one emotion's words is no style.
    """
    said = words(text)
    count = len(said)
    if count == 0:
        return 0.0
    short, long = min(1.0, 0.4 + 0.1 * count), min(max((160 - count) / 100, 0.1), 1.0)
    variety = len(set(said)) / min(count, 60)
    return min(short, long) * min(1.0, variety / 0.65) ** 2


def freshness(text: str, earlier: Sequence[str]) -> float:
    """0 to 1: how little of it has been said before, by word 4-grams (the whole text where it is shorter).

    A fifth of repeated 4-grams is free, for offers have their formulas; 0.8 of them or more gives 0.
    """
    grams = _grams(text)
    if not grams or not earlier:
        return 1.0
    known = {gram for before in earlier for gram in _grams(before)}
    share = sum(gram in known for gram in grams) / len(grams)
    return min(max((0.8 - share) / 0.6, 0.0), 1.0)


def says(text: str, phrases: Iterable[str]) -> int:
    """How many of the phrases occur, as whole words in this order."""
    said = f" {' '.join(words(text))} "
    return sum(f" {' '.join(words(phrase))} " in said for phrase in phrases)


def slips(text: str, domain: Domain, labels: Sequence[str]) -> int:
    """Signs that the speaker fell out of the role: 0 for clean words.

    Counted: lines spoken for a named role ("Debtor: ..."), speaking as the other side ("Dear creditor"), emotion labels
    or directives copied into the words ("[anger]", "Anger: ...", "*sighs with relief*"), talk about scores, rubrics or
    instructions, chat markup.
    """
    said = text.lower().replace("\u2019", "'")
    roles = "|".join(map(re.escape, (*domain.roles.values(), *_GENERIC_ROLES)))
    names = "|".join(map(re.escape, (*(label.lower() for label in labels), "emotion", "tone", "directive")))
    spoken = re.findall(rf"(?:^|\n|[.!?\"]\s)\W*(?:{roles})(?:\s\w+)?\s*:", said)
    own, theirs = (re.escape(domain.roles[side]) for side in ("focal", "counterparty"))
    swapped = re.findall(
        rf"\b(?:dear|hello|hi) {own}\b|\b(?:i am|i'm) (?:a|the|your) {theirs}\b|\bas your {theirs}\b", said
    )
    bracketed = re.findall(rf"[\[*<][^\]*>\n]{{0,40}}\b(?:{names})\b[^\]*>\n]*[\]*>]|\(\W*(?:{names})\W*(?::|\))", said)
    headed = re.findall(rf"(?:^|\n)\W*(?:{names})(?:\s*:|\s+-\s)", said)
    return len(spoken) + len(swapped) + len(bracketed) + len(headed) + len(_META.findall(said))


def _grams(text: str) -> list[tuple[str, ...]]:
    said = words(text)
    if len(said) < _NGRAM:
        return [tuple(said)] if said else []
    return [tuple(said[i : i + _NGRAM]) for i in range(len(said) - _NGRAM + 1)]
