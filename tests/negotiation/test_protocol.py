"""The rules of the table: every way a negotiation ends, in both directions of wanting."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emodistill.errors import UserError
from emodistill.negotiation.protocol import (
    COUNTERPARTY,
    FOCAL,
    MAX_ROUNDS,
    TOLERANCE,
    Act,
    Negotiation,
    Turn,
    read_limits,
)
from emodistill.negotiation.scenarios import Scenario

LESS = Scenario("debt-1", "debt", 30, 130)  # the focal side wants fewer days; 100 days apart, so 1 day is 0.01
MORE = Scenario("disaster-1", "disaster", 160, 60)  # the focal side wants more minutes
BOTH = pytest.mark.parametrize("scenario", [LESS, MORE], ids=["less", "more"])


def table(scenario: Scenario, *offers: float | None, **given: int) -> Negotiation:
    """A negotiation in which the sides make these offers in turn."""
    negotiation = Negotiation(scenario, seed=0, **given)
    for offer in offers:
        turn(negotiation, offer)
    return negotiation


def turn(negotiation: Negotiation, offer: float | None = None, act: Act = "propose") -> None:
    negotiation.play(Turn(negotiation.round, negotiation.next_speaker, "words", act, offer))


def at(scenario: Scenario, *positions: float) -> list[float]:
    return [scenario.value_at(position) for position in positions]


@BOTH
@pytest.mark.parametrize("positions", [(1, 0, 0.8), (1, 0.3)], ids=["counterparty accepts", "focal accepts"])
def test_accepting_books_the_other_sides_standing_offer(scenario: Scenario, positions: tuple[float, ...]) -> None:
    negotiation = table(scenario, *at(scenario, *positions))
    turn(negotiation, act="accept")
    assert (negotiation.end, negotiation.deal_value) == ("deal", scenario.value_at(positions[-1]))
    assert negotiation.utility == pytest.approx(positions[-1])


@BOTH
def test_offers_within_tolerance_meet_in_the_middle(scenario: Scenario) -> None:
    assert table(scenario, *at(scenario, 0.55, 0.49)).end is None
    negotiation = table(scenario, *at(scenario, 0.55, 0.51))
    assert (negotiation.end, negotiation.deal_value) == ("deal", pytest.approx(scenario.value_at(0.53)))


@BOTH
def test_a_gap_of_exactly_the_tolerance_is_a_deal(scenario: Scenario) -> None:
    assert table(scenario, *at(scenario, 0.55, 0.55 - TOLERANCE)).end == "deal"


@BOTH
def test_the_midpoint_holds_where_offers_cross_within_tolerance(scenario: Scenario) -> None:
    negotiation = table(scenario, *at(scenario, 0.5, 0.54))
    assert (negotiation.end, negotiation.deal_value) == ("deal", pytest.approx(scenario.value_at(0.52)))


@BOTH
def test_crossing_books_the_offer_that_was_there_first(scenario: Scenario) -> None:
    by_counterparty = table(scenario, *at(scenario, 0.4, 0.7))
    assert (by_counterparty.end, by_counterparty.deal_value) == ("deal", scenario.value_at(0.4))
    by_focal = table(scenario, *at(scenario, 1, 0.6, 0.2))
    assert (by_focal.end, by_focal.deal_value) == ("deal", scenario.value_at(0.6))


def test_the_final_value_is_of_the_last_offers_not_of_stale_ones() -> None:
    negotiation = table(Scenario("debt-2", "debt", 20, 100), 20, 80, 40, 44)
    assert (negotiation.end, negotiation.deal_value) == ("deal", 42)


def test_an_accepted_offer_is_the_last_one_not_the_first() -> None:
    negotiation = table(LESS, 30, 130, 50, 110, 60)
    turn(negotiation, act="accept")
    assert negotiation.deal_value == 60


def test_tolerance_is_measured_in_position() -> None:
    hours = Scenario("student-1", "student", 90, 300)  # 210 minutes apart: 5 minutes are 0.024
    assert table(hours, 90, 300).end is None
    assert table(hours, 120, 131).end is None  # 11 minutes: 0.052
    assert table(hours, 120, 130).end == "deal"
    narrow = Scenario("student-2", "student", 90, 120)  # 30 minutes apart: 5 minutes are a sixth of it
    assert table(narrow, 100, 105).end is None


@BOTH
def test_walking_away_ends_it_without_a_deal(scenario: Scenario) -> None:
    negotiation = table(scenario, *at(scenario, 1, 0))
    turn(negotiation, act="walk_away")
    assert (negotiation.end, negotiation.deal_value, negotiation.utility) == ("walk_away", None, 0.0)
    assert negotiation.fault is None


@BOTH
def test_the_deadline_falls_after_the_counterpartys_last_turn(scenario: Scenario) -> None:
    negotiation = table(scenario, *at(scenario, *(1, 0) * (MAX_ROUNDS - 1)), scenario.focal_target)
    assert (MAX_ROUNDS, negotiation.end, negotiation.next_speaker) == (15, None, COUNTERPARTY)
    turn(negotiation, scenario.counterparty_target)
    assert (negotiation.end, negotiation.deal_value, len(negotiation.turns)) == ("deadline", None, 30)


def test_a_deal_in_the_last_turn_is_a_deal() -> None:
    negotiation = table(LESS, 30, 130, 40, max_rounds=2)
    turn(negotiation, act="accept")
    assert (negotiation.end, negotiation.deal_value) == ("deal", 40)
    assert table(LESS, 30, 130, 40, 41, max_rounds=2).end == "deal"
    assert table(LESS, 30, 130, 40, None, max_rounds=2).end == "deadline"


@BOTH
def test_a_turn_without_an_offer_leaves_the_standing_offer(scenario: Scenario) -> None:
    high, low = at(scenario, 1, 0.2)
    negotiation = table(scenario, high, low, None, None)
    assert negotiation.standing == {FOCAL: high, COUNTERPARTY: low}
    assert (negotiation.offers(FOCAL), negotiation.offers(COUNTERPARTY)) == ([high], [low])
    turn(negotiation, act="accept")
    assert negotiation.deal_value == low


def test_silence_never_makes_a_deal() -> None:
    assert table(LESS, *[None] * 10).end is None
    assert table(LESS, 30, None, None, None).end is None


@BOTH
def test_an_offer_may_be_taken_back(scenario: Scenario) -> None:
    negotiation = table(scenario, *at(scenario, 0.6, 0, 0.9))
    assert negotiation.standing[FOCAL] == scenario.value_at(0.9)


def test_accepting_nothing_is_invalid() -> None:
    negotiation = table(LESS)
    turn(negotiation, act="accept")
    assert (negotiation.end, negotiation.deal_value) == ("invalid", None)
    assert negotiation.fault == "the focal accepted in round 1, but no offer stands"
    own_offer_only = table(LESS, 30, None)
    turn(own_offer_only, act="accept")
    assert own_offer_only.end == "invalid"


@pytest.mark.parametrize("offer", [math.nan, math.inf, -math.inf])
def test_an_offer_that_is_no_number_is_invalid_and_never_stands(offer: float) -> None:
    negotiation = table(LESS, 30, offer)
    assert (negotiation.end, negotiation.deal_value) == ("invalid", None)
    assert negotiation.fault is not None and "counterparty's offer in round 1" in negotiation.fault
    assert negotiation.standing[COUNTERPARTY] is None
    assert all(turn.offer is None or math.isfinite(turn.offer) for turn in negotiation.turns)


def test_turns_come_in_order() -> None:
    negotiation = table(LESS)
    with pytest.raises(ValueError, match="turn 1/counterparty is out of order"):
        negotiation.play(Turn(1, COUNTERPARTY, "me first"))
    with pytest.raises(ValueError, match="turn 2/focal is out of order"):
        negotiation.play(Turn(2, FOCAL, "later"))
    turn(negotiation, 30)
    with pytest.raises(ValueError, match="turn 1/focal is out of order"):
        negotiation.play(Turn(1, FOCAL, "me again"))
    assert len(negotiation.turns) == 1
    turn(negotiation, 130)
    assert (negotiation.round, negotiation.next_speaker) == (2, FOCAL)


def test_what_is_over_stays_as_it_ended() -> None:
    negotiation = table(LESS, 40, 41)
    with pytest.raises(ValueError, match=r"is over \(deal\)"):
        turn(negotiation, 60)
    with pytest.raises(ValueError, match=r"is over \(deal\)"):
        negotiation.break_off("too late")
    assert (negotiation.end, negotiation.deal_value, negotiation.fault) == ("deal", 40.5, None)


def test_a_fault_is_invalid_and_no_walk_away() -> None:
    negotiation = table(LESS, 30, 130)
    negotiation.break_off("the endpoint answered 503")
    assert (negotiation.end, negotiation.deal_value) == ("invalid", None)
    assert negotiation.fault == "the endpoint answered 503"


@given(st.lists(st.none() | st.floats(-0.5, 1.5), max_size=40), st.sampled_from([LESS, MORE]))
def test_a_deal_lies_between_the_last_offers_and_everything_ends(
    positions: list[float | None], scenario: Scenario
) -> None:
    negotiation = Negotiation(scenario, 0)
    for position in positions + [None] * 30:
        if negotiation.end is None:
            turn(negotiation, None if position is None else scenario.value_at(position))
    assert negotiation.end in {"deal", "deadline"}
    assert len(negotiation.turns) <= 2 * MAX_ROUNDS
    assert (negotiation.end == "deal") == (negotiation.deal_value is not None)
    assert 0.0 <= negotiation.utility <= 1.0
    if negotiation.deal_value is not None:
        low, high = sorted(negotiation.standing[side] or 0.0 for side in (FOCAL, COUNTERPARTY))
        assert low - 1e-9 <= negotiation.deal_value <= high + 1e-9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_rounds: 15", "tolerance is missing"),
        ("{max_rounds: 15, tolerance: 0.05, rounds: 3}", "there is no key rounds"),
        ("{max_rounds: 0, tolerance: 0.05}", "max_rounds=0"),
        ("{max_rounds: 15, tolerance: 1.0}", "tolerance=1.0"),
        ("{max_rounds: 15.5, tolerance: 0.05}", "max_rounds=15.5"),
    ],
)
def test_a_faulty_number_of_the_protocol_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^assets/protocol.yaml: {message}"):
        read_limits(text)
