"""The negotiation from the other chair."""

from emodistill.counterparties.simulation import BehaviouralCounterparty, BehaviouralOffers
from emodistill.counterparties.trained_arm import MirroredOffers, mirrored
from emodistill.emotions.perceiver import load_perceiver
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

SCENARIO = Scenario("a", "debt", 20.0, 110.0)


def under_way(words="I need 20 days.", seed=0):
    negotiation = Negotiation(SCENARIO, seed)
    negotiation.play(Turn(1, FOCAL, "I need 20 days.", offer=20.0, emotion="joy"))
    negotiation.play(Turn(1, COUNTERPARTY, words, offer=110.0))
    return negotiation


def test_twice_is_the_identity():
    negotiation = under_way()
    once, twice = mirrored(negotiation), mirrored(mirrored(negotiation))
    assert twice == negotiation and twice.rng[FOCAL] is negotiation.rng[FOCAL]
    assert once != negotiation and once.rng[FOCAL] is negotiation.rng[COUNTERPARTY]


def test_positions_speakers_and_offers_change_places():
    once = mirrored(under_way())
    assert [turn.speaker for turn in once.turns] == [COUNTERPARTY, FOCAL]
    assert once.standing == {FOCAL: 110.0, COUNTERPARTY: 20.0}
    assert abs(once.scenario.position(65.0) + SCENARIO.position(65.0) - 1) < 1e-12
    assert once.offers(FOCAL) == [110.0]


def test_numbers_on_the_focal_chair_answer_to_the_words_from_opposite():
    numbers = MirroredOffers(BehaviouralOffers(BehaviouralCounterparty(load_perceiver("counterparty"), "population:4")))

    def offers(words):
        decisions = [numbers.decide(under_way(words, seed)) for seed in range(12)]
        return [decision.offer for decision in decisions]

    warm, furious = offers("Thank you so much, I appreciate it."), offers("I hate this, I am furious with you!")
    assert warm != furious
    assert all(20.0 <= offer <= 110.0 for offer in warm if offer is not None)
