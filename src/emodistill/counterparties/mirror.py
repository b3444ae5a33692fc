"""A negotiation seen from the other chair, so that whoever plays the focal side can play the counterparty's as well.

Targets, speakers, standing offers and generators change places; words and numbers stay as they are. What was position x
is 1 - x. The view is made anew for every decision and shares its generators with the table, so that a draw made on one
chair is a draw of the negotiation.
"""

from collections.abc import Sequence
from dataclasses import replace

from emodistill.negotiation.agents import Choice, Decision, OfferPolicy, Selector
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, other
from emodistill.negotiation.scenarios import Scenario


def mirrored_scenario(scenario: Scenario) -> Scenario:
    """The scenario with its two targets exchanged: position 1 is what the counterparty wants."""
    return replace(scenario, focal_target=scenario.counterparty_target, counterparty_target=scenario.focal_target)


def mirrored(negotiation: Negotiation) -> Negotiation:
    """The same negotiation as the other side sees it; mirrored twice, it reads as before.

    It is for looking at, not for playing on: the focal side of the view did not speak first.
    """
    view = Negotiation(
        mirrored_scenario(negotiation.scenario),
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


class MirroredSelector:
    """A selector of the focal side that chooses for the counterparty: it is shown every negotiation in the mirror."""

    def __init__(self, selector: Selector) -> None:
        self.selector, self.name = selector, selector.name

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return self.selector.select([mirrored(negotiation) for negotiation in negotiations])


class MirroredOffers:
    """An offer policy of the counterparty's that decides for the focal side."""

    def __init__(self, offers: OfferPolicy) -> None:
        self.offers = offers

    def decide(self, negotiation: Negotiation) -> Decision:
        return self.offers.decide(mirrored(negotiation))
