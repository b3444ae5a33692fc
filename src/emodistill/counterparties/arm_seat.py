"""An arm on the counterparty's chair: its emotions and words are the arm's, its numbers those of the simulation.

In a tournament both sides' numbers follow the simulation (`behavioural`): each concedes, accepts and leaves as a persona
that is moved by what it perceives in the words from opposite. With a schedule that ignores words on either side, the
emotions of the other side could not matter.
"""

from collections.abc import Sequence

from emodistill.counterparties.behavioural import BehaviouralCounterparty, BehaviouralOffers
from emodistill.counterparties.mirror import MirroredOffers, MirroredSelector
from emodistill.negotiation.agents import FocalAgent, OfferPolicy, Selector, Speaker
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

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        for negotiation in negotiations:
            negotiation.counterparty = f"{self.name}:{self.numbers.persona(negotiation).name}"
        super().begin(negotiations)


def moved_offers(numbers: BehaviouralCounterparty) -> OfferPolicy:
    """Numbers of the focal side that answer to the counterparty's words, by the same simulation in the mirror.

    In one negotiation both sides have the same persona, so neither is the easier one to move.
    """
    return MirroredOffers(BehaviouralOffers(numbers))
