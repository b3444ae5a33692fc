"""Selectors that need no training: no emotion, one constant emotion, random ones, or whichever the speaker names."""

from collections.abc import Sequence

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.negotiation.agents import Choice
from emodistill.negotiation.protocol import FOCAL, Negotiation


class NoEmotion:
    """Shows no emotion: the speaker's directive then has no emotion sentence at all."""

    name = "none"

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return [Choice(None, None)] * len(negotiations)


class LeftToSpeaker(NoEmotion):
    """Chooses nothing: the language model names the emotion of its words itself, and the turn has that one."""

    name = "named"


class FixedEmotion:
    """Always the same emotion; a label that is not in the vocabulary is a UserError."""

    def __init__(self, vocabulary: Vocabulary, label: str) -> None:
        vocabulary.index(label)
        self.label = label
        self.name = f"fixed:{label}"

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return [Choice(self.label, 1.0)] * len(negotiations)


class UniformEmotion:
    """Each emotion with the same probability, drawn from the negotiation's own generator."""

    name = "uniform"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        labels = self.vocabulary.labels
        draws = [int(negotiation.rng[FOCAL].integers(len(labels))) for negotiation in negotiations]
        return [Choice(labels[draw], 1.0 / len(labels)) for draw in draws]
