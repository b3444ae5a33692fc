"""A judge that asks the simulation itself: what would this counterparty do next on hearing these words?

NOT OFFLINE. Every other judge has the corpus alone, or nothing. This one may try replies on the party that the policy
is later tested against, as often as it likes, and hears with that party's own perceiver. It shows the most that any
judge could give here. What is trained with it is no offline method and proves nothing about one.

For an utterance in an episode of the corpus, the episode is played again with its persona and its seed: the focal side
says what it said, and the simulation answers anew. Its moves must be those of the corpus, or the corpus is refused.
Then the utterance is said in place of the next turn, as it would be in play (an offer that it does not state is
appended), and the simulation answers once. All replies to one context meet the same random draws, so what they do
differs by their words alone.

    score = 5.5 + 4.5 (concession + w mood) / (1 + w)

The concession, in position, is what the counterparty gives after that minus what it gave before: its standing offer (0
before its first); the deal, where there is one; 0, the utility of no deal, where it is over without. The mood, in
[-1, 1], is that which the words leave it in. A unit of mood is worth about w = 0.2 of position in the rounds that
follow: it changes a step of .09 by half of itself, wears off by 0.3 a round, and below 0 it adds .27 a round to the
chance that all is lost.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from emodistill.checks import check_number
from emodistill.counterparties.personas import constants
from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.errors import UserError
from emodistill.judges.request import (
    HIGHEST,
    LOWEST,
    Judgement,
    JudgeRequest,
    OnJudgement,
    Origin,
    announced,
)
from emodistill.negotiation.agents import Choice, Decision, Fault, move_of
from emodistill.negotiation.engine import take_turn
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, MAX_ROUNDS, TOLERANCE, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

logger = logging.getLogger(__name__)

LOGIC = 1  # raise it when the arithmetic in this file changes: part of the judge's version
Place = tuple[str, str, Origin, tuple[Turn, ...]]  # of a context: scenario, origin and the turns before


@dataclass(frozen=True)
class Continuation:
    """What a counterparty did on hearing an utterance.

    Attributes:
        concession: in position, in [-1, 1]; see the module.
        mood: in [-1, 1].
        answer: its words, or None where the utterance ended the negotiation.
    """

    concession: float
    mood: float
    answer: str | None


class SimulationJudge:
    """Scores by what the simulated counterparty of an episode would do next. Not offline: see the module.

    Args:
        counterparty: the simulation, with the personas that the corpus was played against.
        mood: w of the formula.

    Raises:
        UserError: if that counterparty is no simulation, or w is negative.
    """

    name = "simulation (not offline)"
    plays_on = True

    def __init__(self, counterparty: Any, mood: float = 0.2) -> None:
        if not isinstance(counterparty, SimulatedCounterpartySpec):
            described = counterparty.describe() if hasattr(counterparty, "describe") else counterparty
            raise _refusal(f"this counterparty is {described}")
        check_number("judge=simulation: mood", mood, 0)
        self.counterparty, self.mood = counterparty, mood
        logger.warning("judge=simulation asks the simulation that is played against: this is not offline training")

    @cached_property
    def simulation(self) -> BehaviouralCounterparty:
        """The counterparty, opened."""
        agent = self.counterparty.open()
        assert isinstance(agent, BehaviouralCounterparty)  # or else its spec is no simulation's
        return agent

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of all that decides a score."""
        shared = [repr(constants()), MAX_ROUNDS, TOLERANCE, self.simulation.perceiver.version]
        content = json.dumps([LOGIC, self.mood, self.counterparty.recipe(), shared], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One score per request, in order.

        Raises:
            UserError: if an utterance belongs to no episode of this simulation.
        """
        middle, half = (HIGHEST + LOWEST) / 2, (HIGHEST - LOWEST) / 2
        judgements = []
        for found in self.continued(requests):
            worth = (found.concession + self.mood * found.mood) / (1 + self.mood)
            parts = {"concession": round((1 + found.concession) / 2, 4), "mood": round((1 + found.mood) / 2, 4)}
            judgements.append(Judgement(round(middle + half * worth, 4), parts=parts))
        return announced(judgements, on_judgement)

    def continued(self, requests: Sequence[JudgeRequest]) -> list[Continuation]:
        """What follows each utterance, in order; the contexts that they share are played again once.

        Raises:
            UserError: as `judge`.
        """
        contexts: dict[Place, Negotiation] = {}
        heard = [self._said(request, contexts) for request in requests]
        before = [_given(one) for one in heard]
        for negotiation, request in zip(heard, requests, strict=True):
            _say(negotiation, request)
        answering = [negotiation for negotiation in heard if negotiation.end is None]
        for negotiation, move in zip(answering, self.simulation.act(answering), strict=True):
            take_turn(negotiation, COUNTERPARTY, move)
        return [self._continuation(*one) for one in zip(heard, before, strict=True)]

    def _continuation(self, negotiation: Negotiation, before: float) -> Continuation:
        answered = negotiation.turns[-1].speaker == COUNTERPARTY
        mood = self.simulation.state(negotiation).mood
        return Continuation(_given(negotiation) - before, mood, negotiation.turns[-1].text if answered else None)

    def _said(self, request: JudgeRequest, contexts: dict[Place, Negotiation]) -> Negotiation:
        """A negotiation of its own that stands where the utterance is said."""
        if request.origin is None:
            raise _refusal("an utterance belongs to no episode")
        scenario, origin = request.scenario, replace(request.origin, act="propose", offer=None, appended=False)
        place = (scenario.domain, scenario.id, origin, tuple(request.history))
        if place not in contexts:
            contexts[place] = self._replayed(scenario, origin, request.history)
        again = copy.copy(contexts[place])
        again.turns, again.standing, again.rng = list(again.turns), dict(again.standing), copy.deepcopy(again.rng)
        return again

    def _replayed(self, scenario: Scenario, origin: Origin, history: Sequence[Turn]) -> Negotiation:
        """The episode up to a focal turn; the counterparty has taken its own draws and no others."""
        negotiation = Negotiation(scenario, origin.seed)
        self.simulation.begin([negotiation])
        if negotiation.counterparty != origin.counterparty:
            raise _refusal(
                f"an episode was played against '{origin.counterparty}' where this one is '{negotiation.counterparty}'"
            )
        for turn in history:
            if turn.speaker == COUNTERPARTY:
                (move,) = self.simulation.act([negotiation])
                if (move.act, move.offer) != (turn.act, turn.offer):
                    raise _refusal(
                        f"in round {turn.round} of scenario {scenario.id}, seed {origin.seed}, '{origin.counterparty}' "
                        "does otherwise than in the corpus"
                    )
            negotiation.play(turn)
        return negotiation


def _say(negotiation: Negotiation, request: JudgeRequest) -> None:
    """Take the utterance's turn, with its offer or acceptance appended where the words do not say it, as in play."""
    assert request.origin is not None  # or else nothing could have been played again
    origin = request.origin
    decision = Decision(origin.act, origin.offer, "hold")  # the dialogue act matters only to who finds words
    move = move_of(negotiation, decision, Choice(request.emotion, None), request.utterance)
    assert not isinstance(move, Fault)  # there are words
    take_turn(negotiation, FOCAL, replace(move, offer_appended=move.offer_appended or origin.appended))


def _given(negotiation: Negotiation) -> float:
    """Position that the counterparty gives as things stand."""
    if negotiation.end is not None:
        return negotiation.utility
    standing = negotiation.standing[COUNTERPARTY]
    return 0.0 if standing is None else negotiation.scenario.position(standing)


def _refusal(why: str) -> UserError:
    return UserError(
        f"judge=simulation plays the corpus's own simulated counterparty on, and {why}; use a corpus that was played "
        "against counterparty=behavioural or persuadable, with the same personas, or another judge"
    )
