"""The best constant emotion is found in play, by domain, and is one of those that may be shown."""

import pytest
from schedules import concession_schedule

from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import parse_arm, selector_of
from emodistill.evaluation.best_constant import BestConstant, best_constant
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario

VOCABULARY = load_vocabulary("ekman7")


def at(domain):
    return Negotiation(Scenario(f"{domain}-0", domain, 20.0, 100.0), 0)


def test_the_highest_mean_of_its_domain_is_shown_among_what_is_allowed():
    selector = BestConstant({"debt": {"anger": 0.4, "joy": 0.6}, "hospital": {"anger": 0.5, "joy": 0.2}})
    assert [choice.emotion for choice in selector.select([at("debt"), at("hospital")])] == ["joy", "anger"]
    assert [choice.emotion for choice in selector.select_among([at("debt")], [["anger"]])] == ["anger"]


def test_it_is_found_in_play_and_beats_the_worst_on_the_scenarios_it_was_chosen_on():
    scenarios = generate_scenarios("debt", 6, seed=0)
    counterparty = BehaviouralCounterparty(load_perceiver("counterparty"), ["victim", "threat"])
    found = best_constant(scenarios, 2, counterparty, concession_schedule(), VOCABULARY)
    values = found.values["debt"]
    assert set(values) == set(VOCABULARY.labels) and max(values.values()) > min(values.values()) + 0.05
    again = best_constant(scenarios, 2, counterparty, concession_schedule(), VOCABULARY)
    assert again.values == found.values
    (choice,) = found.select([at("debt")])
    assert values[choice.emotion] == max(values.values())


def test_where_nobody_can_be_played_against_the_arm_says_so():
    def never():
        raise AssertionError("not asked for")

    with pytest.raises(UserError, match="best constant is chosen in play"):
        selector_of(parse_arm("best_constant", VOCABULARY), VOCABULARY, never, never)


def test_a_domain_without_validation_scenarios_is_named():
    chosen = BestConstant({"debt": {"joy": 0.5}})
    with pytest.raises(UserError, match="best_constant: the corpus has no validation scenario of the domain 'student'"):
        chosen.select([at("student")])
