"""An arm as counterparty: its emotions and words are the arm's, its numbers those of the simulation.

In a tournament both sides' numbers follow the simulation: each concedes, accepts and leaves as a persona that is moved
by what it perceives in the other side's words. With a schedule that ignores words on either side, the emotions of the
other side could not matter.

Whoever plays one side plays the other through a mirror: targets, speakers, standing offers and generators change
places, words and numbers stay as they are, and what was position x is 1 - x. The mirror is made anew for every decision
and shares its generators with the negotiation, so that a draw made on one side is a draw of the negotiation.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from emodistill.counterparties.simulation import BehaviouralCounterparty, BehaviouralOffers
from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import (
    Agent,
    Choice,
    Decision,
    Fault,
    FocalAgent,
    Move,
    OfferPolicy,
    Selector,
    Speaker,
)
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, other


class ArmCounterparty(FocalAgent):
    """Plays opposite the focal side; a negotiation's `counterparty` becomes `<arm>:<persona>`.

    Args:
        arm: its name.
        selector: of the focal side; it is shown every negotiation mirrored.
        speaker: one that speaks the counterparty's part.
        numbers: the simulation that bargains for it, with the personas that take turns by seed.
    """

    def __init__(self, arm: str, selector: Selector, speaker: Speaker, numbers: BehaviouralCounterparty) -> None:
        super().__init__(MirroredSelector(selector), BehaviouralOffers(numbers), speaker)
        self.name, self.numbers = arm, numbers

    @property
    def usage(self) -> Usage:
        """What its words took so far."""
        usage: Usage = getattr(self.speaker, "usage", Usage())
        return usage

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        for negotiation in negotiations:
            negotiation.counterparty = f"{self.name}:{self.numbers.persona(negotiation).name}"
        super().begin(negotiations)


def simulated_offers(numbers: BehaviouralCounterparty) -> OfferPolicy:
    """Numbers of the focal side that answer to the counterparty's words, by the same simulation, mirrored.

    In one negotiation both sides have the same persona, so neither is the easier one to move.
    """
    return MirroredOffers(BehaviouralOffers(numbers))


class LazyAgent:
    """An agent whose model is loaded when it first plays: episodes that are on disk already need none."""

    def __init__(self, name: str, open_agent: Callable[[], Agent]) -> None:
        self.name, self._open = name, open_agent

    @cached_property
    def agent(self) -> Agent:
        return self._open()

    @property
    def usage(self) -> Usage:
        """What its words took so far; asking for it loads nothing."""
        usage: Usage = getattr(vars(self).get("agent"), "usage", Usage())
        return usage

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        self.agent.begin(negotiations)

    def act(self, negotiations: Sequence[Negotiation]) -> Sequence[Move | Fault]:
        return self.agent.act(negotiations)


class MirroredSelector:
    """A selector of the focal side that chooses for the counterparty: it is shown every negotiation mirrored."""

    def __init__(self, selector: Selector) -> None:
        self.selector, self.name = selector, selector.name

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return self.selector.select([mirrored(negotiation) for negotiation in negotiations])


class MirroredOffers:
    """An offer policy of the counterparty that decides for the focal side."""

    def __init__(self, offers: OfferPolicy) -> None:
        self.offers = offers

    def decide(self, negotiation: Negotiation) -> Decision:
        return self.offers.decide(mirrored(negotiation))


def mirrored(negotiation: Negotiation) -> Negotiation:
    """The same negotiation as the other side sees it; mirrored twice, it reads as before.

    It is for looking at, not for playing on: the focal side of the view did not speak first.
    """
    view = Negotiation(
        negotiation.scenario.mirrored(),
        negotiation.seed,
        negotiation.max_rounds,
        negotiation.tolerance,
        negotiation.counterparty,
        [replace(turn, speaker=other(turn.speaker)) for turn in negotiation.turns],
        {FOCAL: negotiation.standing[COUNTERPARTY], COUNTERPARTY: negotiation.standing[FOCAL]},
        negotiation.end,
        negotiation.deal_value,
        negotiation.fault,
    )
    view.rng = {FOCAL: negotiation.rng[COUNTERPARTY], COUNTERPARTY: negotiation.rng[FOCAL]}
    return view
