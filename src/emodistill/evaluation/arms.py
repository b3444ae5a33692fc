"""The arms of METHOD 7: where the emotion comes from, and where the words come from.

An arm has a name of its own, or is spelt `<emotion>+<words>`: `table+jpo`, `joy+phrasebook`, `self_selected+jpo_joint`.
The suffix `#2`, `#3`, ... plays it again with other draws of the focal side, against the same draws of the counterparty.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import FixedEmotion, LeftToSpeaker, NoEmotion, Selector, UniformEmotion
from emodistill.negotiation.protocol import FOCAL, Negotiation

PHRASEBOOK, ENDPOINT, BASE = "phrasebook", "endpoint", "base"
UNTRAINED = (BASE, PHRASEBOOK, ENDPOINT)  # every other source of words is a folder of the run with an adapter
SELF_SELECTED = "self_selected"
_SOURCES: dict[str, tuple[str, str]] = {
    "vanilla": ("none", BASE),
    "random": ("uniform", BASE),
    "table": ("table", BASE),
    "iql": ("iql", BASE),
    "sft": ("iql", "sft"),
    "emodistill": ("iql", "jpo"),
    # trained in another way, see docs/arms.md
    "emotion_free": ("none", "jpo_emotion_free"),
    "joint": (SELF_SELECTED, "jpo_joint"),
    "positive_advantage": ("iql", "jpo_positive_advantage"),
    # the selector alone, spoken by the phrasebook teacher: no language model in between
    "phrasebook_vanilla": ("none", PHRASEBOOK),
    "phrasebook_random": ("uniform", PHRASEBOOK),
    "phrasebook_table": ("table", PHRASEBOOK),
    "phrasebook_iql": ("iql", PHRASEBOOK),
    # a large model behind an endpoint in place of the base model
    "endpoint_vanilla": ("none", ENDPOINT),
    "endpoint_random": ("uniform", ENDPOINT),
    "endpoint_table": ("table", ENDPOINT),
    "endpoint_iql": ("iql", ENDPOINT),
}
_FIXED: dict[str, str] = {"fixed": BASE, "phrasebook_fixed": PHRASEBOOK, "endpoint_fixed": ENDPOINT}
_CONSTANTS = ("gratitude", "joy")
_EMOTIONS = {
    "none": "none",
    "uniform": "uniform",
    "random": "uniform",
    "iql": "iql",
    "table": "table",
    SELF_SELECTED: SELF_SELECTED,
}
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        emotion: `none`, `uniform`, `iql`, `table`, `self_selected` (the language model names it itself), or a label.
        words: `base`, `phrasebook`, `endpoint`, or the stage folder whose adapter speaks, e.g. `jpo`.
        repetition: which of several plays of the same arm this is, from 1.
    """

    name: str
    emotion: str
    words: str
    repetition: int = 1


def parse_arm(name: str, vocabulary: Vocabulary) -> Arm:
    """Read an arm's name, e.g. `vanilla`, `fixed:joy`, `table+jpo` or `emodistill#2`.

    `fixed` without a label takes gratitude, or else joy, or else the first label: whichever the vocabulary has.

    Raises:
        UserError: if there is no such arm, or the label is not in the vocabulary.
    """
    plain, mark, number = name.partition("#")
    if mark and (not number.isdecimal() or int(number) < 2):
        raise UserError(f"arm '{name}': after # stands which repetition it is, from 2 on, e.g. {plain or 'iql'}#2")
    canonical, emotion, words = _sources(plain, vocabulary, name)
    return Arm(canonical + mark + number, emotion, words, int(number) if mark else 1)


def _sources(name: str, vocabulary: Vocabulary, given: str) -> tuple[str, str, str]:
    """Name without abbreviations, source of emotions, source of words."""
    if name in _SOURCES:
        return name, *_SOURCES[name]
    if "+" in name:
        return name, *_spelt(name, vocabulary)
    kind, colon, label = name.partition(":")
    if kind in _FIXED and not colon:
        label = next((label for label in _CONSTANTS if label in vocabulary.labels), vocabulary.labels[0])
    if kind not in _FIXED or not label:
        raise UserError(
            f"unknown arm '{given}'; arms are {', '.join(_SOURCES)}, {', '.join(f'{k}:<label>' for k in _FIXED)}, "
            "<emotion>+<words>, and any of them with #2"
        )
    vocabulary.index(label)
    return f"{kind}:{label}", label, _FIXED[kind]


def _spelt(name: str, vocabulary: Vocabulary) -> tuple[str, str]:
    source, _, words = name.partition("+")
    if not _FOLDER.fullmatch(words):
        raise UserError(f"arm '{name}': words are {', '.join(UNTRAINED)}, or a stage folder of the run such as jpo")
    if source not in _EMOTIONS and source not in vocabulary:
        raise UserError(
            f"arm '{name}': an emotion comes from {', '.join(_EMOTIONS)}, or is a label of the vocabulary "
            f"'{vocabulary.name}'"
        )
    if source == SELF_SELECTED and words == PHRASEBOOK:
        raise UserError(f"arm '{name}': the phrasebook is told its emotion and names none; use uniform+phrasebook")
    return _EMOTIONS.get(source, source), words


def parse_arms(names: Sequence[str], vocabulary: Vocabulary) -> list[Arm]:
    """All arms; one that comes twice is a UserError: its cells could not be told apart, or are the same by design."""
    arms = [parse_arm(name, vocabulary) for name in names]
    twice = len({(arm.emotion, arm.words, arm.repetition) for arm in arms}) < len(arms)
    if twice or not arms:
        raise UserError(
            f"arms={list(names)}: {'the same arm twice' if twice else 'no arm to play'}; name each arm once, and a "
            "repetition with other draws by #2"
        )
    return arms


def selector_of(
    arm: Arm, vocabulary: Vocabulary, trained: Callable[[], Selector], table: Callable[[], Selector] | None = None
) -> Selector:
    """The selector of an arm.

    Args:
        trained, table: load the IQL selector and the table of mean returns; called where the arm needs them only.

    Raises:
        UserError: if the arm needs a table and there is none.
    """
    if arm.emotion == "none":
        return NoEmotion()
    if arm.emotion == "uniform":
        return UniformEmotion(vocabulary)
    if arm.emotion == SELF_SELECTED:
        return LeftToSpeaker()
    if arm.emotion == "table":
        if table is None:
            raise UserError(f"arm '{arm.name}' needs a table of mean returns, and there is no corpus to make it from")
        return table()
    return trained() if arm.emotion == "iql" else FixedEmotion(vocabulary, arm.emotion)


def draw_anew(negotiation: Negotiation, repetition: int) -> None:
    """Give the focal side the random draws of a repetition; the first keeps its own, the counterparty always does."""
    if repetition > 1:
        negotiation.rng[FOCAL] = negotiation.rng[FOCAL].spawn(repetition - 1)[-1]
