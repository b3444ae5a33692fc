"""Who plays a corpus, by configuration: the words, the emotions and the offers of a side, and what its recipe says."""

from typing import Any, Protocol

from emodistill.emotions.vocabulary import available, load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import (
    Agent,
    FixedEmotion,
    FocalAgent,
    NoEmotion,
    OfferPolicy,
    Selector,
    UniformEmotion,
)
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.schedule import ConcessionSchedule
from emodistill.policy.agents import RETRIES, ChatSpeaker
from emodistill.policy.chat_backends import ChatBackendSpec

_BACKEND = "voice"  # a recipe is the identity of a corpus, so its keys keep their names


class AgentSpec(Protocol):
    """One side of a corpus, by configuration.

    Attributes:
        depends_on_assets: whether it is made of the package's own lines and weights, which are part of the recipe then.
        is_local_model: whether a language model on this machine speaks.
    """

    depends_on_assets: bool
    is_local_model: bool

    def recipe(self) -> dict[str, Any]:
        """What fixes this side, in plain values."""

    def describe(self) -> str:
        """This side in a few words, for the dataset card."""

    def open(self) -> Agent:
        """The agent; loads its models."""


class FocalAgentSpec(AgentSpec, Protocol):
    def open(self) -> FocalAgent: ...


class SelectorSource(Protocol):
    """Where a trained selector comes from."""

    def recipe(self) -> dict[str, Any]: ...

    def open(self) -> Selector: ...


class TeacherSpec:
    """The phrasebook teacher with uniformly random emotions; a schedule decides its numbers."""

    depends_on_assets, is_local_model = True, False

    def __init__(self, vocabulary: str, schedule: ConcessionSchedule) -> None:
        self.vocabulary, self.schedule = load_vocabulary(vocabulary), schedule
        self._is_own_file = vocabulary not in available()

    def recipe(self) -> dict[str, Any]:
        words = [self.vocabulary.perceived_as] if self._is_own_file else []  # the assets hold those that ship
        return {
            "teacher": "phrasebook",
            "vocabulary": [self.vocabulary.name, self.vocabulary.fingerprint, *words],
            "schedule": vars(self.schedule),
        }

    def describe(self) -> str:
        return "a phrasebook, with an emotion drawn uniformly at random each turn"

    def open(self) -> FocalAgent:
        return FocalAgent(UniformEmotion(self.vocabulary), self.schedule, PhrasebookSpeaker(self.vocabulary))


class ChatAgentSpec:
    """A language model on the focal side, here or behind an endpoint.

    Args:
        backend: which one.
        emotions: `random`, `fixed:<label>`, `none`, or `selector` for the trained one.
        offers: decides numbers and acceptance.
        trained: where the trained selector comes from; needed for `selector` only.
        retries: how often a reply that breaks the role is asked for again.

    Raises:
        UserError: if `emotions` is none of these, or the label is not in the vocabulary.
    """

    depends_on_assets = False

    def __init__(
        self,
        backend: ChatBackendSpec,
        emotions: str,
        vocabulary: str,
        offers: OfferPolicy,
        trained: SelectorSource | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.backend, self.emotions, self.vocabulary = backend, emotions, load_vocabulary(vocabulary)
        self.offers, self.trained, self.retries = offers, trained, retries
        self.is_local_model = backend.is_local
        if emotions != "selector":
            self._selector()
        elif trained is None:
            raise UserError("emotions=selector needs a trained selector: give `trained`")

    def recipe(self) -> dict[str, Any]:
        chosen = self.trained.recipe() if self.trained and self.emotions == "selector" else {}
        return {
            _BACKEND: self.backend.recipe(),
            "emotions": self.emotions,
            **chosen,
            "vocabulary": [self.vocabulary.name, self.vocabulary.fingerprint],
            "offers": _plain(self.offers),
            "retries": self.retries,
        }

    def describe(self) -> str:
        kind, _, label = self.emotions.partition(":")
        shown = {
            "random": "with an emotion drawn uniformly at random each turn",
            "fixed": f"always with the emotion {label}",
            "none": "without emotions",
            "selector": "with emotions by a trained selector",
        }
        whose = "its numbers from a schedule" if isinstance(self.offers, ConcessionSchedule) else "numbers of its own"
        return f"the language model {self.backend.describe()}, {shown[kind]}, {whose}"

    def open(self) -> FocalAgent:
        speaker = ChatSpeaker(self.backend.open(), self.vocabulary, retries=self.retries)
        return FocalAgent(self._selector(), self.offers, speaker)

    def _selector(self) -> Selector:
        kind, _, label = self.emotions.partition(":")
        if self.emotions == "random":
            return UniformEmotion(self.vocabulary)
        if self.emotions == "none":
            return NoEmotion()
        if self.emotions == "selector" and self.trained:
            return self.trained.open()
        if kind == "fixed":
            return FixedEmotion(self.vocabulary, label)
        raise UserError(f"emotions={self.emotions}: use random, fixed:<label>, none or selector")


def _plain(offers: OfferPolicy) -> dict[str, Any]:
    """An offer policy in plain values: its name and its settings, those within settings too."""
    settings = {key: _plain(value) if hasattr(value, "decide") else value for key, value in vars(offers).items()}
    return {"policy": type(offers).__name__, **settings}
