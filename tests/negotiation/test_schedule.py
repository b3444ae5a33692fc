import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedules import concession_schedule

from emodistill.errors import UserError
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.protocol import Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

DEBT = Scenario("s", "debt", 20.0, 120.0)


def at_round(scenario: Scenario, round: int, theirs: float | None = None) -> Negotiation:
    """A negotiation whose next turn is the focal one of `round`; the counterparty has stated `theirs`, if anything."""
    negotiation = Negotiation(scenario, seed=0)
    for number in range(1, round):
        negotiation.play(Turn(number, "focal", "Hello."))
        negotiation.play(Turn(number, "counterparty", "Hello.", offer=theirs))
    return negotiation


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_positions_fall_from_start_to_reserve(exponent: float) -> None:
    schedule = concession_schedule(start=0.9, reserve=0.2, rounds=8, exponent=exponent)
    positions = [schedule.position(round, 15) for round in range(1, 16)]
    assert positions[0] == pytest.approx(0.9)
    assert positions[7:] == pytest.approx([0.2] * 8)
    assert all(before > after for before, after in zip(positions[:7], positions[1:8], strict=True))


def test_exponent_above_one_holds_out_longer() -> None:
    tough, even, soft = (concession_schedule(exponent=e).position(5, 15) for e in (2.0, 1.0, 0.5))
    assert tough > even > soft


def test_an_earlier_deadline_brings_the_reserve_forward() -> None:
    assert concession_schedule(rounds=10).position(5, max_rounds=5) == pytest.approx(0.3)


@given(
    domain=st.sampled_from(domain_names()),
    near=st.integers(10, 200),
    gap=st.integers(-150, 150).filter(lambda gap: abs(gap) >= 30),
    round=st.integers(1, 15),
)
def test_offers_can_be_said_and_stay_between_reserve_and_target(domain: str, near: int, gap: int, round: int) -> None:
    low = 200.0
    scenario = Scenario("s", domain, low + near, low + near + gap)
    decision = concession_schedule(reserve=0.3).decide(at_round(scenario, round))
    assert decision.offer is not None
    assert decision.offer == load_domain(domain).snap(decision.offer)
    assert 0.3 - 1e-9 <= scenario.position(decision.offer) <= 1 + 1e-9


def test_offers_never_climb_back() -> None:
    offers = [concession_schedule().decide(at_round(DEBT, round)).offer for round in range(1, 16)]
    positions = [DEBT.position(offer) for offer in offers if offer is not None]
    assert positions == sorted(positions, reverse=True)
    assert len(set(positions)) > 5


@pytest.mark.parametrize("round", [2, 4, 7, 10, 15])
def test_accepts_exactly_what_is_worth_its_next_offer(round: int) -> None:
    schedule = concession_schedule()
    own = schedule.decide(at_round(DEBT, round)).offer
    assert own is not None
    assert schedule.decide(at_round(DEBT, round, own)).act == "accept"
    assert schedule.decide(at_round(DEBT, round, own - 1)).act == "accept"
    assert schedule.decide(at_round(DEBT, round, own + 1)).act == "propose"


def test_decisions_name_their_dialogue_act() -> None:
    schedule = concession_schedule()
    assert schedule.decide(at_round(DEBT, 1)).dialogue_act == "open"
    assert schedule.decide(at_round(DEBT, 15, 20.0)).dialogue_act == "close"
    negotiation = Negotiation(DEBT, seed=0)
    negotiation.play(Turn(1, "focal", "20 days.", offer=20.0))
    negotiation.play(Turn(1, "counterparty", "120 days.", offer=120.0))
    assert schedule.decide(negotiation).dialogue_act == "concede"


def test_targets_closer_than_the_grid_still_get_an_offer() -> None:
    decision = concession_schedule().decide(at_round(Scenario("s", "disaster", 62.0, 61.0), 3))
    assert decision.offer == 60.0


@pytest.mark.parametrize(
    "arguments", [{"reserve": 1.0}, {"start": 1.2}, {"reserve": -0.1}, {"rounds": 1}, {"exponent": 0.0}]
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match="schedule: .* needed|schedule.rounds=1: a whole number of at least 2"):
        concession_schedule(**arguments)  # type: ignore[arg-type]  # floats for the int on purpose


@pytest.mark.parametrize("key", ["start", "reserve", "rounds", "exponent"])
def test_words_for_numbers_are_refused_by_name(key: str) -> None:
    with pytest.raises(UserError, match=f"schedule.{key}=abc: a (whole )?number"):
        concession_schedule(**{key: "abc"})  # type: ignore[arg-type]  # on purpose
