"""How the simulated counterparty is moved: pure functions of what has been said so far.

Nothing is remembered between turns. The state is computed anew from the turns on the table, so a negotiation can be
copied, stored and resumed, and two that read alike go on alike. F = 6 families of emotions; the equations are on one
page in `docs/counterparty.md`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emodistill.counterparties.personas import Constants, FloatArray, Persona
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation


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
