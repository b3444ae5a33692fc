"""Every random draw of a negotiation is fixed by its seed, its scenario and the side that draws."""

from dataclasses import replace

from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation
from emodistill.negotiation.scenarios import Scenario

LESS = Scenario("debt-1", "debt", 30, 130)


def test_draws_depend_on_seed_scenario_and_side_alone() -> None:
    def draws(scenario: Scenario, seed: int, side: str) -> list[float]:
        return Negotiation(scenario, seed).rng[side].random(4).tolist()  # type: ignore[index]  # a plain str is a side

    base = draws(LESS, 7, FOCAL)
    assert base == draws(LESS, 7, FOCAL)
    assert base != draws(LESS, 7, COUNTERPARTY)
    assert base != draws(LESS, 8, FOCAL)
    assert base != draws(replace(LESS, id="debt-9"), 7, FOCAL)
    assert base != draws(replace(LESS, domain="hospital"), 7, FOCAL)


def test_one_sides_draws_do_not_disturb_the_other() -> None:
    quiet, talkative = Negotiation(LESS, 3), Negotiation(LESS, 3)
    talkative.rng[FOCAL].random(100)
    assert quiet.rng[COUNTERPARTY].random() == talkative.rng[COUNTERPARTY].random()
