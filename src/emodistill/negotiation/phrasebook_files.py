"""Reads and checks the phrasebook's YAML files, so that a gap in them is found on loading and not mid-corpus.

A file per GoEmotions label holds its tone and, for each dialogue act, its lines. A line is one text for all domains,
or a mapping of domains to texts (with `any` for the domains it does not name). `offers.yaml` holds the sentences that
state an offer or seal a deal, by tone and act, and how each domain words an offer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, get_args

import yaml

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import DialogueAct
from emodistill.negotiation.domains import domain_names, load_domain

ACTS: tuple[DialogueAct, ...] = get_args(DialogueAct)
ANY = "any"
LINES_AN_ACT = 4  # lines every emotion has for every act, over all domains together
LINES_A_DOMAIN = 3  # and those that are left in each domain
OFFERS = "offers.yaml"
SLOT = re.compile(r"\{(\w*)\}")

Line = Mapping[str, str]  # domain, or `any`, to text
Wordings = Mapping[str, Mapping[str, Sequence[str]]]  # domain, or `any`, to slot (`deal`, `ask`) to wordings
Sentences = Mapping[str, Mapping[str, Sequence[str]]]  # tone to act to sentences


@dataclass(frozen=True)
class EmotionLines:
    """What one emotion says: its tone, and for every act its lines."""

    tone: str
    lines: Mapping[DialogueAct, tuple[Line, ...]]


def default_folder() -> Traversable:
    """The phrasebook that ships with the package."""
    return files("emodistill") / "assets" / "phrasebook"


def read_offers(folder: Traversable) -> tuple[Wordings, Sentences, Sequence[str]]:
    """Read `offers.yaml`: wordings by domain, sentences by tone and act, and sentences that end the talks.

    Raises:
        UserError: if a key is missing, a list is empty or a slot is unknown; the message names file and key.
    """
    raw = _read(folder, OFFERS)
    for key in ("wordings", "tones", "walk_away"):
        if not raw.get(key):
            raise UserError(f"phrasebook/{OFFERS} has no '{key}'; add it")
    if ANY not in raw["wordings"]:
        raise UserError(f"phrasebook/{OFFERS}: wordings has no '{ANY}', which serves the domains it does not name")
    for domain, slots in raw["wordings"].items():
        for slot in ("deal", "ask"):
            _check_texts(slots.get(slot), 1, {"offer"}, f"{OFFERS}: wordings.{domain}.{slot}")
    for tone, acts in raw["tones"].items():
        for act in ACTS:
            _check_texts(acts.get(act), 3, {"deal", "ask"}, f"{OFFERS}: tones.{tone}.{act}")
    _check_texts(raw["walk_away"], 1, set(), f"{OFFERS}: walk_away")
    return raw["wordings"], raw["tones"], raw["walk_away"]


def read_emotions(folder: Traversable, tones: Sequence[str]) -> dict[str, EmotionLines]:
    """Read the file of every GoEmotions label.

    Args:
        tones: the tones that `offers.yaml` knows.

    Raises:
        UserError: if a file, an act or a line is missing, or a slot or tone is unknown; it names file and key.
    """
    return {label: _emotion(folder, label, tones) for label in load_vocabulary().labels}


def _emotion(folder: Traversable, label: str, tones: Sequence[str]) -> EmotionLines:
    name = f"{label}.yaml"
    raw = _read(folder, name)
    if set(raw) != {"tone", *ACTS}:
        raise UserError(f"phrasebook/{name} must have exactly the keys tone, {', '.join(ACTS)}; it has {list(raw)}")
    if raw["tone"] not in tones:
        raise UserError(f"phrasebook/{name}: tone '{raw['tone']}' is unknown; {OFFERS} has: {', '.join(tones)}")
    lines = {act: tuple(_line(entry, f"{name}: {act}") for entry in raw[act] or ()) for act in ACTS}
    for act in ACTS:
        _check_coverage(lines[act], f"{name}: {act}")
    return EmotionLines(raw["tone"], lines)


def _line(entry: Any, place: str) -> Line:
    texts = {ANY: entry} if isinstance(entry, str) else entry
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"phrasebook/{place}: a line is a text or a mapping of domains to texts, not {entry!r}")
    for domain, text in texts.items():
        if domain not in (ANY, *domain_names()):
            raise UserError(f"phrasebook/{place}: no domain '{domain}'; there are: {ANY}, {', '.join(domain_names())}")
        for served in domain_names() if domain == ANY else [domain]:
            _check_texts([text], 1, set(load_domain(served).slots), f"{place} ({served})")
    return texts


def _check_coverage(lines: Sequence[Line], place: str) -> None:
    if len(lines) < LINES_AN_ACT:
        raise UserError(f"phrasebook/{place} has {len(lines)} lines; write at least {LINES_AN_ACT}")
    for domain in domain_names():
        there = sum(domain in line or ANY in line for line in lines)
        if there < LINES_A_DOMAIN:
            raise UserError(f"phrasebook/{place} has {there} lines for '{domain}'; write at least {LINES_A_DOMAIN}")


def _check_texts(texts: Any, least: int, slots: set[str], place: str) -> None:
    if not isinstance(texts, list) or len(texts) < least or not all(isinstance(text, str) and text for text in texts):
        raise UserError(f"phrasebook/{place} must be a list of at least {least} texts")
    for text in texts:
        unknown = sorted(set(SLOT.findall(text)) - slots)
        if unknown or text.count("{") != text.count("}"):
            raise UserError(f"phrasebook/{place}: unknown slot {unknown} in '{text}'; known: {sorted(slots)}")


def _read(folder: Traversable, name: str) -> dict[str, Any]:
    entry = folder / name
    if not entry.is_file():
        raise UserError(f"phrasebook/{name} is missing from {folder}; every GoEmotions label has its file")
    try:
        raw = yaml.safe_load(entry.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"phrasebook/{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"phrasebook/{name} must be a mapping of keys to texts")
    return raw
