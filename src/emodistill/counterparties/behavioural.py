"""The counterparty that needs no language model: a documented simulation, fast, repeatable, with answers one can check.

It concedes with time and accepts by AC_next, and it is moved by what it *perceives* in the words it is told: the 28
shares of its own perceiver. It never sees which emotion was asked for, so only words that carry it have an effect.

Nothing that is learnt against it says anything about people: its reactions were written by hand after the literature.
`docs/counterparty.md` has every equation, constant and source.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emodistill.counterparties.dynamics import State, next_position, stages, state, walk_away_chance
from emodistill.counterparties.lines import LineAct, Mood, say
from emodistill.counterparties.personas import (
    TEST_PERSONAS,
    TRAINING_PERSONAS,
    FloatArray,
    Persona,
    constants,
    grouping,
    load_persona,
)
from emodistill.emotions.perceiver import Perceiver
from emodistill.errors import UserError
from emodistill.negotiation.agents import CONCEDES, Decision, DialogueAct, Move
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Act, Negotiation
from emodistill.negotiation.scenarios import Scenario

__all__ = ["TEST_PERSONAS", "TRAINING_PERSONAS", "BehaviouralCounterparty"]
_REMEMBERED = 200_000  # texts whose perception is kept; beyond that the memory starts afresh
_ROUNDING = 1e-9
_DIALOGUE_ACTS: dict[LineAct, DialogueAct] = {
    "open": "open",
    "hold": "hold",
    "concede": "concede",
    "accept": "close",
    "walk_away": "close",
}


class BehaviouralCounterparty:
    """Sits opposite the focal side; the persona of a negotiation is `personas[seed % len(personas)]`.

    It keeps no state of a negotiation (see `dynamics`), only a memory of texts it has perceived.

    Raises:
        UserError: if a persona is unknown, or none is given.
    """

    def __init__(self, perceiver: Perceiver, personas: Sequence[str] = TRAINING_PERSONAS) -> None:
        if not personas:
            raise UserError(
                f"the counterparty needs a persona; there are: {', '.join(TRAINING_PERSONAS + TEST_PERSONAS)}"
            )
        self.perceiver, self.personas = perceiver, [load_persona(name) for name in personas]
        self.name = "behavioural"
        self._perceived: dict[str, FloatArray] = {}

    def persona(self, negotiation: Negotiation) -> Persona:
        return self.personas[negotiation.seed % len(self.personas)]

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        for negotiation in negotiations:
            negotiation.counterparty = f"{self.name}:{self.persona(negotiation).name}"

    def act(self, negotiations: Sequence[Negotiation]) -> list[Move]:
        self._perceive([turn.text for each in negotiations for turn in each.turns if turn.speaker == FOCAL])
        return [self._move(negotiation) for negotiation in negotiations]

    def state(self, negotiation: Negotiation) -> State:
        """Mood, pull and exposure after the focal turns so far."""
        heard = self._perceive([turn.text for turn in negotiation.turns if turn.speaker == FOCAL])
        persona = self.persona(negotiation)
        return state(persona, constants(), heard, stages(persona, negotiation))

    def _perceive(self, texts: Sequence[str]) -> list[FloatArray]:
        """Family shares of each text, each (F,). Rounded, so that no sum depends on the batch it was taken in."""
        if len(self._perceived) > _REMEMBERED:
            self._perceived.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._perceived]
        if new:
            shares = np.round(self.perceiver.probabilities(new).astype(float) @ grouping(), 4)
            self._perceived.update(zip(new, shares, strict=True))
        return [self._perceived[text] for text in texts]

    def _move(self, negotiation: Negotiation) -> Move:
        """What it decides, in a line of its persona's."""
        decided = self.decide(negotiation)
        words = (self.persona(negotiation).name, negotiation.scenario, decided.mood, decided.line_act)
        text = say(*words, decided.offer, decided.line)
        offer = None if decided.offer is None else parse_offer(text, negotiation.scenario.domain)
        return Move(text, decided.act, offer)

    def decide(self, negotiation: Negotiation) -> "Decided":
        """Accept, walk away or offer; every turn takes the same four draws, whatever it does with them."""
        persona, now, scenario = self.persona(negotiation), self.state(negotiation), negotiation.scenario
        rng = negotiation.rng[COUNTERPARTY]
        leaving, rounding, line = (float(draw) for draw in rng.random(3))
        offers = negotiation.offers(COUNTERPARTY)
        last = scenario.position(offers[-1]) if offers else None
        target = next_position(persona, constants(), now, last, negotiation.round, float(rng.standard_normal()))
        standing, mood = negotiation.standing[FOCAL], _mood(now)
        if standing is not None and scenario.position(standing) <= target + _ROUNDING:
            return Decided("accept", None, mood, "accept", line)
        if leaving < walk_away_chance(persona, constants(), now, negotiation.round):
            return Decided("walk_away", None, mood, "walk_away", line)
        offer = _sayable(scenario, target, last, persona.reserve, rounding)
        return Decided("propose", offer, mood, _act(scenario, offer, last), line)


@dataclass(frozen=True, slots=True)
class Decided:
    """What a turn does before it is put into words; `line` in [0, 1) chooses among the persona's lines."""

    act: Act
    offer: float | None
    mood: Mood
    line_act: LineAct
    line: float


class BehaviouralOffers:
    """Numbers, acceptance and leaving of the simulation, for a seat whose words are somebody else's.

    Whoever speaks there is still moved by what it perceives in the words from opposite.
    """

    def __init__(self, counterparty: BehaviouralCounterparty) -> None:
        self.counterparty = counterparty

    def decide(self, negotiation: Negotiation) -> Decision:
        decided = self.counterparty.decide(negotiation)
        return Decision(decided.act, decided.offer, _DIALOGUE_ACTS[decided.line_act])


def _mood(now: State) -> Mood:
    if now.mood <= -constants().audible:
        return "cold"
    return "warm" if now.mood >= constants().audible else "even"


def _act(scenario: Scenario, offer: float, last: float | None) -> LineAct:
    if last is None:
        return "open"
    return "concede" if scenario.position(offer) - last >= CONCEDES else "hold"


def _sayable(scenario: Scenario, target: float, last: float | None, reserve: float, draw: float) -> float:
    """One of the two grid points around a position, the nearer one more often, so that rounding favours nobody.

    Never behind the last offer, never beyond the reserve; where no point fits, the nearest to where it stands.
    """
    rules, value = scenario.rules, scenario.value_at(target)
    below = math.floor(value / rules.grid) * rules.grid
    first, second = below, below + rules.grid
    if draw < (value - below) / rules.grid:
        first, second = second, first
    lowest = 0.0 if last is None else last
    for offer in (rules.snap(first), rules.snap(second)):
        if lowest - _ROUNDING <= scenario.position(offer) <= reserve + _ROUNDING:
            return offer
    return rules.snap(scenario.value_at(lowest))
