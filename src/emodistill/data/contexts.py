"""Situations in which the policy speaks next."""

from dataclasses import dataclass

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.judges.request import JudgeRequest
from emodistill.negotiation.named_emotions import Named, take_apart
from emodistill.negotiation.protocol import Turn
from emodistill.negotiation.scenarios import Scenario


@dataclass(frozen=True)
class ChatContext:
    """A situation in which the policy speaks next: all tokens before its reply, and what a judge has to know.

    Attributes:
        group: name of the scenario.
        words: what the counterparty said last, or an empty string; for people who read samples.
        emotion: that the reply is asked to show; None where the prompt asks for none.
        offer: the offer that the directive asks for, in the domain's unit, or None.
        names: the emotions of which the reply has to name one itself; None where it is words alone.
    """

    input_ids: list[int]
    scenario: Scenario
    history: tuple[Turn, ...]
    emotion: str | None
    group: str
    words: str
    offer: float | None = None
    names: Vocabulary | None = None

    def taken(self, reply: str) -> Named:
        """The emotion that a reply is meant to show, asked for or named by itself, and its words."""
        return Named(self.emotion, reply) if self.names is None else take_apart(reply, self.names)

    def request(self, reply: str) -> JudgeRequest | None:
        """The question to a judge about a reply in this situation.

        None for a reply that has to name its emotion and names none: whether it shows it cannot be asked, and to ask
        without an emotion would spare it what the others are scored on.
        """
        emotion, words = self.taken(reply)
        if self.names is not None and emotion is None:
            return None
        return JudgeRequest(self.scenario, self.history, emotion, words)
