"""The counterparty that needs no language model: a documented simulation, fast, repeatable, with answers one can check.

It concedes with time and accepts by AC_next, and it is moved by what it *perceives* in the words it is told: the 28
shares of its own perceiver. It never sees which emotion was asked for, so only words that carry it have an effect. It
answers in written lines by voice, mood and act, with words of the domain in slots; the focal side learns the mood from
these words alone, through its own perceiver, and how the party reacts from what it concedes.

Nothing is remembered between turns. The state is computed anew from the turns on the table, so a negotiation can be
copied, stored and resumed, and two that read alike go on alike.

Nothing that is learnt against it says anything about people: its reactions were written by hand after the literature.
`docs/counterparty.md` has every equation, constant and source. F = 6 families of emotions throughout.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import yaml

from emodistill.counterparties.personas import Constants, FloatArray, Persona, constants, grouping
from emodistill.counterparties.population import load_personas
from emodistill.emotions.perceiver import Perceiver
from emodistill.negotiation.agents import CONCEDES, Decision, DialogueAct, Move
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Act, Negotiation
from emodistill.negotiation.scenarios import Scenario

Mood = Literal["cold", "even", "warm"]
LineAct = Literal["open", "hold", "concede", "accept", "walk_away"]
MOODS: tuple[Mood, ...] = ("cold", "even", "warm")
ACTS: tuple[LineAct, ...] = ("open", "hold", "concede", "accept", "walk_away")

_REMEMBERED = 200_000  # texts whose perception is kept; beyond that the memory starts afresh
_ROUNDING = 1e-9
_DIALOGUE_ACTS: dict[LineAct, DialogueAct] = {
    "open": "open",
    "hold": "hold",
    "concede": "concede",
    "accept": "close",
    "walk_away": "close",
}


@dataclass(frozen=True)
class State:
    """What the focal words so far have done to the counterparty.

    Attributes:
        mood: in [-1, 1]; hostile below 0.
        pull: of the last focal turn: above 0 it draws a concession, below 0 it costs one.
        exposure: (F,) how much of each family it has heard lately, before the last focal turn.
    """

    mood: float
    pull: float
    exposure: FloatArray


@dataclass(frozen=True, slots=True)
class Decided:
    """What a turn does before it is put into words; `line` in [0, 1) chooses among the voice's lines."""

    act: Act
    offer: float | None
    mood: Mood
    line_act: LineAct
    line: float


class BehaviouralCounterparty:
    """Plays opposite the focal side; the persona of a negotiation is `personas[seed % len(personas)]`.

    It keeps no state of a negotiation, only what it perceived in texts it has read before.

    Args:
        personas: names, `population:N` and its like (see `population.load_personas`), one or a list of them.

    Raises:
        UserError: if a persona is unknown, or none is given.
    """

    def __init__(self, perceiver: Perceiver, personas: str | Sequence[str]) -> None:
        self.perceiver, self.personas = perceiver, load_personas(personas)
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
        """What it decides, in a line of its persona's voice."""
        decided = self.decide(negotiation)
        words = (self.persona(negotiation).voice, negotiation.scenario, decided.mood, decided.line_act)
        text = say(*words, decided.offer, decided.line)
        offer = None if decided.offer is None else parse_offer(text, negotiation.scenario.domain)
        return Move(text, decided.act, offer)

    def decide(self, negotiation: Negotiation) -> Decided:
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


class BehaviouralOffers:
    """Numbers, acceptance and leaving of the simulation, for a side whose words are somebody else's.

    Whoever speaks there is still moved by what it perceives in the other side's words.
    """

    def __init__(self, counterparty: BehaviouralCounterparty) -> None:
        self.counterparty = counterparty

    def decide(self, negotiation: Negotiation) -> Decision:
        decided = self.counterparty.decide(negotiation)
        return Decision(decided.act, decided.offer, _DIALOGUE_ACTS[decided.line_act])


def state(persona: Persona, constants: Constants, heard: Sequence[FloatArray], stages: Sequence[float]) -> State:
    """The state after the focal turns whose family shares are `heard`, each (F,), at these `stages`."""
    mood, pull, exposure = persona.temper, 0.0, np.zeros_like(persona.mood)
    previous = np.zeros_like(persona.mood)
    for shares, stage in zip(heard, stages, strict=True):
        exposure = constants.memory * (exposure + previous)
        fresh = np.maximum(1 - constants.habituation * exposure, constants.stale)
        pull = float(shares @ _worn((1 - stage) * persona.early + stage * persona.late, fresh))
        mood = persona.temper + constants.mood_memory * (mood - persona.temper)
        mood = min(max(mood + float(shares @ _worn(persona.mood, fresh)), -1.0), 1.0)
        previous = np.minimum(shares / constants.notice, 1.0)
    return State(mood, pull, exposure)


def _worn(effect: FloatArray, fresh: FloatArray) -> FloatArray:
    """Repetition wears off what an emotion gains, and at last turns it round; what it spoils stays spoilt."""
    return np.where(effect > 0, effect * fresh, effect)


def stages(persona: Persona, negotiation: Negotiation) -> list[float]:
    """For every focal turn so far, the stage in [0, 1] at which it was said: 0 early and far apart, 1 late and close.

    The mean of the share of patience that was used up and of how much of the whole distance was closed, each in [0, 1].
    """
    scenario, positions, found = negotiation.scenario, {FOCAL: 1.0, COUNTERPARTY: 0.0}, []
    for turn in negotiation.turns:
        if turn.offer is not None:
            positions[turn.speaker] = scenario.position(turn.offer)
        if turn.speaker == FOCAL:
            late = min((turn.round - 1) / (persona.patience - 1), 1.0)
            close = 1.0 - min(max(positions[FOCAL] - positions[COUNTERPARTY], 0.0), 1.0)
            found.append((late + close) / 2)
    return found


def planned(persona: Persona, round: int) -> float:
    """Position that the time-dependent tactic alone has reached in a round (Faratin et al. 1998)."""
    share = min((round - 1) / (persona.patience - 1), 1.0)
    return persona.opening + (persona.reserve - persona.opening) * float(share**persona.exponent)


def next_position(
    persona: Persona, constants: Constants, now: State, last: float | None, round: int, draw: float
) -> float:
    """Position of its next offer: never back, never beyond its reserve. `draw` is standard normal."""
    before = planned(persona, round - 1) if round > 1 else 0.0
    step = (planned(persona, round) - before) * (1 + constants.mood_generosity * now.mood)
    step += constants.gain * now.pull + constants.noise * draw
    start = 0.0 if last is None else last
    return max(start, min(start + step, persona.reserve))


def walk_away_chance(persona: Persona, constants: Constants, now: State, round: int) -> float:
    """Chance that it leaves in this round; none in the first, when nothing has been heard yet but an opening."""
    if round == 1:
        return 0.0
    hostile = constants.hostility_hazard * max(-now.mood, 0.0)
    tired = constants.fatigue_hazard * max(round - persona.patience, 0)
    return min(hostile + tired, 0.9)


@cache
def _read(name: str) -> dict[str, Any]:
    folder = files("emodistill") / "assets" / "counterparty_lines"
    raw: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return raw


def lines(voice: str, domain: str, mood: Mood, act: LineAct) -> list[str]:
    """All lines for one situation; an offer is left as the slot `{offer}`."""
    words = _read("situations")
    slots: dict[str, list[str]] = words.get(domain, words["other"])
    filled = list(_read(voice)[mood][act])
    for slot, fillers in slots.items():
        filled = [
            line.replace(f"{{{slot}}}", filler)
            for line in filled
            for filler in (fillers if f"{{{slot}}}" in line else fillers[:1])
        ]
    return [line[0].upper() + line[1:] for line in filled]


@cache
def _choices(voice: str, domain: str, mood: Mood, act: LineAct) -> list[str]:
    return lines(voice, domain, mood, act)


def say(voice: str, scenario: Scenario, mood: Mood, act: LineAct, offer: float | None, draw: float) -> str:
    """A line chosen by `draw`, uniform in [0, 1), with the offer in words of the domain."""
    choices = _choices(voice, scenario.domain, mood, act)
    line = choices[int(draw * len(choices))]
    return line if offer is None else line.replace("{offer}", scenario.rules.say(offer))
