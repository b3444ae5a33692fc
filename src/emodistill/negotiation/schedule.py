"""The focal side's numbers: a fixed concession schedule, the same for every arm.

If each arm bargained its own numbers, a table of arms would compare bargaining as much as emotion. With one schedule
for all of them only the emotion and the words differ, and whatever the counterparty gives is given to those.

Its numbers are in `configs/base.yaml` under `schedule`.

Source: the time-dependent tactic of Faratin, Sierra and Jennings 1998, section 3.1, with the acceptance rule AC_next of
Baarslag, Hindriks and Jonker 2013: accept what is worth at least as much as one's own next offer.
"""

from emodistill.checks import check_number, check_whole
from emodistill.errors import UserError
from emodistill.negotiation.agents import Decision, dialogue_act
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation
from emodistill.negotiation.scenarios import Scenario

_ROUNDING = 1e-9


class ConcessionSchedule:
    """Offers that move from `start` to `reserve` over `rounds` rounds, and acceptance by AC_next.

    Position asked for in round t, with s the share of the schedule that has passed, `(t - 1) / (rounds - 1)` up to 1:
    `start - (start - reserve) * s ** exponent`.

    Args:
        start: position of the first offer, in (reserve, 1].
        reserve: lowest position it ever offers or accepts, in [0, start).
        rounds: round in which the reserve is reached, at least 2; an earlier deadline brings it forward.
        exponent: 1 concedes evenly, above 1 holds out first (Boulware), below 1 gives early (Conceder).

    Raises:
        UserError: if an argument is out of its range.
    """

    def __init__(self, start: float, reserve: float, rounds: int, exponent: float) -> None:
        for key, value in (("start", start), ("reserve", reserve), ("exponent", exponent)):
            check_number(f"schedule.{key}", value)
        check_whole("schedule.rounds", rounds, 2)
        if not 0 <= reserve < start <= 1:
            raise UserError(f"schedule: 0 <= reserve < start <= 1 is needed, not reserve={reserve}, start={start}")
        if exponent <= 0:
            raise UserError(f"schedule: exponent > 0 is needed, not exponent={exponent}")
        self.start, self.reserve, self.rounds, self.exponent = start, reserve, rounds, exponent

    def position(self, round: int, max_rounds: int) -> float:
        """Position asked for in a round; never rises with the round, never below the reserve."""
        last = max(min(self.rounds, max_rounds), 2)
        share = min((round - 1) / (last - 1), 1.0)
        return self.start - (self.start - self.reserve) * float(share**self.exponent)

    def decide(self, negotiation: Negotiation) -> Decision:
        scenario, standing = negotiation.scenario, negotiation.standing[COUNTERPARTY]
        offer = self.sayable(scenario, self.position(negotiation.round, negotiation.max_rounds))
        if standing is not None and scenario.position(standing) >= scenario.position(offer) - _ROUNDING:
            return Decision("accept", None, dialogue_act(negotiation, "accept", None))
        return Decision("propose", offer, dialogue_act(negotiation, "propose", offer))

    def sayable(self, scenario: Scenario, position: float) -> float:
        """The offer nearest to a position that one can say and that lies between reserve and start.

        Where the targets are so close that no point of the grid lies between them, the nearest point has to do.
        """
        nearest = scenario.rules.snap(scenario.value_at(position))
        steps = (0.0, scenario.rules.grid, -scenario.rules.grid)
        inside = [
            offer
            for offer in (scenario.rules.snap(nearest + step) for step in steps)
            if self.reserve - _ROUNDING <= scenario.position(offer) <= self.start + _ROUNDING
        ]
        return inside[0] if inside else nearest


class OpenOffers:
    """The model bargains the number too; only acceptance stays with a rule (`offers=model`).

    Args:
        acceptance: its AC_next decides when the counterparty's offer is good enough.
    """

    def __init__(self, acceptance: ConcessionSchedule) -> None:
        self.acceptance = acceptance

    def decide(self, negotiation: Negotiation) -> Decision:
        ruled = self.acceptance.decide(negotiation)
        if ruled.act == "accept":
            return ruled
        return Decision("propose", None, dialogue_act(negotiation, "propose", None))


class CounterpartySchedule:
    """The same tactic for the counterparty, with a little noise, so that episodes of one scenario differ by seed.

    Its numbers answer to time and to the focal side's offers, never to words: of a corpus made with it nothing can be
    learnt about which emotion moves anybody. For that, the counterparty must bargain its own numbers.

    Args:
        schedule: positions as the counterparty sees them, 1 at its own target.
        noise: standard deviation of each step, in position; no step goes back behind the last offer.
    """

    def __init__(self, schedule: ConcessionSchedule, noise: float) -> None:
        check_number("noise of the counterparty's schedule", noise, 0)
        self.schedule, self.noise = schedule, noise

    def decide(self, negotiation: Negotiation) -> Decision:
        mirrored = negotiation.scenario.mirrored()
        draw = float(negotiation.rng[COUNTERPARTY].standard_normal())
        planned = self.schedule.position(negotiation.round, negotiation.max_rounds) + self.noise * draw
        last, standing = negotiation.standing[COUNTERPARTY], negotiation.standing[FOCAL]
        highest = self.schedule.start if last is None else min(self.schedule.start, mirrored.position(last))
        offer = self.schedule.sayable(mirrored, min(max(planned, self.schedule.reserve), highest))
        if standing is not None and mirrored.position(standing) >= mirrored.position(offer) - _ROUNDING:
            return Decision("accept", None, "close")
        return Decision("propose", offer, "open" if last is None else "hold" if offer == last else "concede")
