"""Replies in which a language model first names the emotion that it chose: "joy: We are nearly there."

The name is for this side alone. It is taken off before anybody hears the words; the model's own chat keeps it.
"""

import re
from functools import cache
from typing import NamedTuple

from emodistill.emotions.vocabulary import Vocabulary

_BEFORE, _BETWEEN, _AFTER = r"[\s*_\"“'\[(]*", r"[\s*_\"”'\])]*:[\s*_]*", r"(?P<words>.*)"


class Named(NamedTuple):
    """A reply taken apart; `emotion` is None where it begins with no name of the vocabulary."""

    emotion: str | None
    words: str


def with_name(emotion: str | None, words: str) -> str:
    """A reply as the model writes it; without an emotion, the bare words."""
    return words if emotion is None else f"{emotion}: {words}"


def take_apart(reply: str, vocabulary: Vocabulary) -> Named:
    """The emotion that a reply names, and its words.

    Case, quotes, brackets and stars around the name do not matter. Anything else before a colon is part of the words:
    nobody could tell a name that is not in the vocabulary from the beginning of a sentence.
    """
    found = _pattern(vocabulary.labels).match(reply)
    if found is None:
        return Named(None, reply.strip())
    names = {label.casefold(): label for label in vocabulary.labels}
    return Named(names[found["name"].casefold()], found["words"].strip())


@cache
def _pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    return re.compile(f"{_BEFORE}(?P<name>{names}){_BETWEEN}{_AFTER}", re.IGNORECASE | re.DOTALL)
