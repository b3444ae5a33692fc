"""The arms of METHOD 7: where the emotion comes from, and where the words come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Selector
from emodistill.negotiation.selectors import FixedEmotion, NoEmotion, UniformEmotion

Words = Literal["base", "sft", "jpo", "phrasebook", "endpoint"]
_SOURCES: dict[str, tuple[str, Words]] = {
    "vanilla": ("none", "base"),
    "random": ("uniform", "base"),
    "iql": ("iql", "base"),
    "sft": ("iql", "sft"),
    "emodistill": ("iql", "jpo"),
    # the selector alone, spoken by the phrasebook teacher: no language model in between
    "phrasebook_vanilla": ("none", "phrasebook"),
    "phrasebook_random": ("uniform", "phrasebook"),
    "phrasebook_iql": ("iql", "phrasebook"),
    # a large model behind an endpoint in place of the base model
    "endpoint_vanilla": ("none", "endpoint"),
    "endpoint_random": ("uniform", "endpoint"),
    "endpoint_iql": ("iql", "endpoint"),
}
_FIXED: dict[str, Words] = {"fixed": "base", "phrasebook_fixed": "phrasebook", "endpoint_fixed": "endpoint"}
_CONSTANTS = ("gratitude", "joy")


@dataclass(frozen=True)
class Arm:
    """One arm: its name, the source of its emotions (`none`, `uniform`, `iql` or a label), the source of its words."""

    name: str
    emotion: str
    words: Words


def parse_arm(name: str, vocabulary: Vocabulary) -> Arm:
    """Read an arm's name, e.g. `vanilla` or `fixed:joy`.

    `fixed` without a label takes gratitude, or else joy, or else the first label: whichever the vocabulary has.

    Raises:
        UserError: if there is no such arm, or the label is not in the vocabulary.
    """
    if name in _SOURCES:
        return Arm(name, *_SOURCES[name])
    kind, colon, label = name.partition(":")
    if kind in _FIXED and not colon:
        label = next((label for label in _CONSTANTS if label in vocabulary.labels), vocabulary.labels[0])
    if kind not in _FIXED or not label:
        raise UserError(
            f"unknown arm '{name}'; arms are {', '.join(_SOURCES)}, {', '.join(f'{k}:<label>' for k in _FIXED)}"
        )
    vocabulary.index(label)
    return Arm(f"{kind}:{label}", label, _FIXED[kind])


def parse_arms(names: Sequence[str], vocabulary: Vocabulary) -> list[Arm]:
    """All arms; a name that comes twice is a UserError, since its cells could not be told apart."""
    arms = [parse_arm(name, vocabulary) for name in names]
    twice = len({arm.name for arm in arms}) < len(arms)
    if twice or not arms:
        raise UserError(
            f"arms={list(names)}: {'the same arm twice' if twice else 'no arm to play'}; name each arm once"
        )
    return arms


def selector_of(arm: Arm, vocabulary: Vocabulary, trained: Callable[[], Selector]) -> Selector:
    """The selector of an arm; `trained` is called for the IQL selector only."""
    if arm.emotion == "none":
        return NoEmotion()
    if arm.emotion == "uniform":
        return UniformEmotion(vocabulary)
    return trained() if arm.emotion == "iql" else FixedEmotion(vocabulary, arm.emotion)
