"""Scored examples and probes: data that judges which are language models are given (`assets/judging`)."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

FOLDER = files("emodistill") / "assets" / "judging"


@dataclass(frozen=True)
class Example:
    """One scored utterance: the last words of both sides, the emotion asked for, the words, the score (1 to 9)."""

    own: str
    theirs: str
    emotion: str
    text: str
    score: int


def read(name: str) -> Any:
    """The content of one of the YAML files."""
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


@cache
def examples(domain: str) -> tuple[Example, ...]:
    """The examples of a domain, or the first situation of every domain that has some."""
    scored = read("examples.yaml")
    situations = scored.get(domain) or [first for first, *_ in scored.values()]
    return tuple(
        Example(situation["own"], situation["theirs"], **utterance)
        for situation in situations
        for utterance in situation["utterances"]
    )


@cache
def example_domains() -> tuple[str, ...]:
    """The domains that have examples of their own."""
    return tuple(read("examples.yaml"))


@cache
def probes() -> tuple[str, ...]:
    """Utterances that must score low, wherever they are said."""
    return tuple(read("probes.yaml"))
