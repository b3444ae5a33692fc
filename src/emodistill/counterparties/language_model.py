"""A language model as counterparty, on this machine or behind an endpoint.

Its prompt comes from the domain file: its role, its own target, and the columns that its side may see; never the focal
target. Either a schedule decides its numbers and the model says them, or the model bargains them itself: then the
neutral parsers read its words, `parse_offer` the number and `parse_act` whether it accepts or leaves. A small model
left to itself repeats the other side's number, so the schedule is the default for one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import (
    Choice,
    Decision,
    Fault,
    Move,
    OfferPolicy,
    Utterance,
    move_in_words,
    move_of,
    recalled_move,
)
from emodistill.negotiation.prompts import BARGAINS, FOLLOWS_NOTES, round_words, system_words, task_words
from emodistill.negotiation.protocol import COUNTERPARTY, Negotiation
from emodistill.policy.agents import Line, RolePlay
from emodistill.policy.chat_backends import ChatBackend


class LanguageModelCounterparty:
    """Plays opposite the focal side, in role (see `policy.agents.RolePlay`).

    Args:
        backend: where the words come from.
        offers: decides its act and number, as the counterparty sees them; None leaves both to the model.
        personas: a sentence each, by name; the persona of a negotiation goes by its seed. May be empty.
        retries: how often a reply that breaks the role is asked for again.
    """

    def __init__(
        self,
        backend: ChatBackend,
        offers: OfferPolicy | None,
        personas: Mapping[str, str],
        retries: int,
    ) -> None:
        self.backend, self.offers, self.personas = backend, offers, dict(personas)
        self.name = f"lm:{backend.name}"
        self._play = RolePlay(backend, COUNTERPARTY, retries)

    @property
    def usage(self) -> Usage:
        """What its backend took so far."""
        return self.backend.usage

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        for negotiation in negotiations:
            persona = self._persona(negotiation)
            negotiation.counterparty = f"{self.name}:{persona}" if persona else self.name
        self._play.begin(negotiations, [self._system(negotiation) for negotiation in negotiations])

    def act(self, negotiations: Sequence[Negotiation]) -> list[Move | Fault]:
        return self._bargained(negotiations) if self.offers is None else self._scheduled(negotiations, self.offers)

    def recall(self, negotiations: Sequence[Negotiation], said: Sequence[Utterance]) -> list[Move]:
        """Turns whose words are known: draws and chats go on as they do after `act`, and no model is asked."""
        if self.offers is None:
            self._play.ask(negotiations, [Line(_heard(negotiation)) for negotiation in negotiations])
            return [move_in_words(n, COUNTERPARTY, words.text) for n, words in zip(negotiations, said, strict=True)]
        decisions = [self.offers.decide(negotiation) for negotiation in negotiations]
        self._play.ask(negotiations, [_line(*each) for each in zip(negotiations, decisions, strict=True)])
        turns = zip(negotiations, decisions, said, strict=True)
        return [recalled_move(negotiation, decision, words.text) for negotiation, decision, words in turns]

    def _scheduled(self, negotiations: Sequence[Negotiation], offers: OfferPolicy) -> list[Move | Fault]:
        decisions = [offers.decide(negotiation) for negotiation in negotiations]
        spoken = self._play.speak(negotiations, [_line(*each) for each in zip(negotiations, decisions, strict=True)])
        nobody = Choice(None, None)
        return [
            move_of(n, decision, nobody, words)
            for n, decision, words in zip(negotiations, decisions, spoken, strict=True)
        ]

    def _bargained(self, negotiations: Sequence[Negotiation]) -> list[Move | Fault]:
        spoken = self._play.speak(negotiations, [Line(_heard(negotiation)) for negotiation in negotiations])
        return [_read(negotiation, words) for negotiation, words in zip(negotiations, spoken, strict=True)]

    def _persona(self, negotiation: Negotiation) -> str:
        return list(self.personas)[negotiation.seed % len(self.personas)] if self.personas else ""

    def _system(self, negotiation: Negotiation) -> str:
        sentence = self.personas.get(self._persona(negotiation), "")
        answer = BARGAINS if self.offers is None else FOLLOWS_NOTES
        return system_words(negotiation.scenario, COUNTERPARTY, sentence, answer)


def _heard(negotiation: Negotiation) -> str:
    return negotiation.turns[-1].text


def _line(negotiation: Negotiation, decision: Decision) -> Line:
    """What the model is to say of a decision."""
    offer = None if decision.offer is None else negotiation.scenario.rules.say(decision.offer)
    task = task_words(decision.act, offer)
    return Line(round_words(_heard(negotiation), task), task)


def _read(negotiation: Negotiation, spoken: Utterance | Fault) -> Move | Fault:
    """The turn that a model's own words amount to."""
    if isinstance(spoken, Fault):
        return spoken
    return replace(move_in_words(negotiation, COUNTERPARTY, spoken.text), role_violations=spoken.role_violations)
