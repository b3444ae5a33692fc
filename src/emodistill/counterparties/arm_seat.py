"""An arm on the counterparty's chair: its emotions and words are the arm's, its numbers those of the simulation.

In a tournament both sides' numbers follow the simulation (`behavioural`): each concedes, accepts and leaves as a
persona that is moved by what it perceives in the words from opposite. With a schedule that ignores words on either
side, the emotions of the other side could not matter.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

from emodistill.counterparties.behavioural import BehaviouralCounterparty, BehaviouralOffers
from emodistill.counterparties.mirror import MirroredOffers, MirroredSelector
from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import Agent, Fault, FocalAgent, Move, OfferPolicy, Selector, Speaker
from emodistill.negotiation.protocol import Negotiation


class ArmCounterparty(FocalAgent):
    """Sits opposite the focal side; a negotiation's `counterparty` becomes `<arm>:<persona>`.

    Args:
        arm: its name.
        selector: of the focal side; it is shown every negotiation in the mirror.
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


class LateSeat:
    """A seat whose model is loaded when somebody plays against it: what is on disk already needs none."""

    def __init__(self, name: str, open_seat: Callable[[], Agent]) -> None:
        self.name, self._open = name, open_seat

    @cached_property
    def seat(self) -> Agent:
        return self._open()

    @property
    def usage(self) -> Usage:
        """What its words took so far."""
        usage: Usage = getattr(self.seat, "usage", Usage())
        return usage

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        self.seat.begin(negotiations)

    def act(self, negotiations: Sequence[Negotiation]) -> Sequence[Move | Fault]:
        return self.seat.act(negotiations)


def moved_offers(numbers: BehaviouralCounterparty) -> OfferPolicy:
    """Numbers of the focal side that answer to the counterparty's words, by the same simulation in the mirror.

    In one negotiation both sides have the same persona, so neither is the easier one to move.
    """
    return MirroredOffers(BehaviouralOffers(numbers))
