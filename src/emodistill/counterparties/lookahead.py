"""One step of look-ahead on the simulation: what a state-dependent choice of emotion can earn at least.

Before every focal turn each candidate emotion is tried on copies of the negotiation that are played to their end with
random emotions, and the one with the highest mean utility is shown. That is one step of policy improvement over random
play, found with knowledge that no learner has (the simulation itself): a lower bound of what the best policy earns.
The copies draw their own randomness: the look-ahead does not know the draws to come.
"""

from collections.abc import Sequence

import numpy as np

from emodistill.counterparties.behavioural import BehaviouralCounterparty
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.negotiation.agents import Choice, FocalAgent
from emodistill.negotiation.engine import play
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation

CANDIDATES = (
    "anger",
    "disapproval",
    "disappointment",
    "sadness",
    "gratitude",
    "caring",
    "joy",
    "optimism",
    "curiosity",
    "neutral",
)


class FirstThen:
    """Shows a given emotion in a negotiation's next turn, then whatever the agent's own selector says."""

    name = "first-then"

    def __init__(self, agent: FocalAgent, first: dict[int, str]) -> None:
        self.agent, self.first = agent, first

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        choices = self.agent.selector.select(negotiations)
        forced = [self.first.pop(id(negotiation), None) for negotiation in negotiations]
        return [Choice(first, 1.0) if first else choice for first, choice in zip(forced, choices, strict=True)]


class LookAhead:
    """A selector that tries every candidate on the simulation.

    Args:
        agent: plays the copies; its selector says how they go on.
        rollouts: copies a candidate. The same draws serve all candidates, which takes most of the noise out.
    """

    name = "look-ahead"

    def __init__(
        self,
        vocabulary: Vocabulary,
        agent: FocalAgent,
        counterparty: BehaviouralCounterparty,
        rollouts: int,
        seed: int,
        candidates: Sequence[str] = CANDIDATES,
    ) -> None:
        for label in candidates:
            vocabulary.index(label)
        self.agent, self.counterparty, self.rollouts, self.seed = agent, counterparty, rollouts, seed
        self.candidates = tuple(candidates)

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        copies, first = [], {}
        for negotiation in negotiations:
            for label in self.candidates:
                for rollout in range(self.rollouts):
                    copy = self._copy(negotiation, rollout)
                    first[id(copy)] = label
                    copies.append(copy)
        agent = FocalAgent(FirstThen(self.agent, first), self.agent.offers, self.agent.speaker)
        play(copies, agent, self.counterparty)
        shape = (len(negotiations), len(self.candidates), self.rollouts)
        values = np.array([copy.utility for copy in copies]).reshape(shape).mean(axis=2)
        return [Choice(self.candidates[int(best)], 1.0) for best in values.argmax(axis=1)]

    def _copy(self, negotiation: Negotiation, rollout: int) -> Negotiation:
        """A copy that shares the past and has draws of its own to come."""
        copy = Negotiation(
            negotiation.scenario,
            negotiation.seed,
            negotiation.max_rounds,
            negotiation.tolerance,
            negotiation.counterparty,
            list(negotiation.turns),
            dict(negotiation.standing),
        )
        for i, side in enumerate((FOCAL, COUNTERPARTY)):
            copy.rng[side] = np.random.default_rng((self.seed, negotiation.seed, negotiation.round, rollout, i))
        return copy
