import copy
import math

import numpy as np
import pytest
from schedules import concession_schedule

from emodistill.counterparties.personas import load_persona, named_personas
from emodistill.counterparties.simulation import BehaviouralCounterparty, Mood, lines
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.agents import FocalAgent, UniformEmotion
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.engine import play
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

ALL = named_personas()
FOUR = ALL[:4]
SCENARIOS = {
    "debt": Scenario("a", "debt", 20.0, 110.0),
    "disaster": Scenario("b", "disaster", 180.0, 80.0),
    "hospital": Scenario("c", "hospital", 90.0, 30.0),
    "student": Scenario("d", "student", 30.0, 210.0),
}
HEATED = "I am so angry. I hate this and I am furious with you."
GRATEFUL = "Thank you so much, I really appreciate it, thanks."


def counterparty(*personas: str) -> BehaviouralCounterparty:
    return BehaviouralCounterparty(load_perceiver("counterparty"), personas or FOUR)


def focal() -> FocalAgent:
    vocabulary = load_vocabulary()
    return FocalAgent(UniformEmotion(vocabulary), concession_schedule(), PhrasebookSpeaker(vocabulary))


def episodes(domain: str, count: int, personas: tuple[str, ...] = FOUR) -> list[Negotiation]:
    negotiations = [Negotiation(SCENARIOS[domain], seed) for seed in range(count)]
    return play(negotiations, focal(), counterparty(*personas))


def after(words: list[str], persona: str, seed: int = 0, domain: str = "debt") -> tuple[Negotiation, list[float]]:
    """A negotiation in which the focal side says these words and never moves, and the positions offered in return."""
    negotiation, agent = Negotiation(SCENARIOS[domain], seed), counterparty(persona)
    agent.begin([negotiation])
    for round, text in enumerate(words, start=1):
        if negotiation.end is None:
            negotiation.play(Turn(round, "focal", text, offer=SCENARIOS[domain].focal_target if round == 1 else None))
            move = agent.act([negotiation])[0]
            negotiation.play(Turn(round, "counterparty", move.text, move.act, move.offer))
    return negotiation, [negotiation.scenario.position(offer) for offer in negotiation.offers(COUNTERPARTY)]


def test_persona_goes_by_seed_and_is_recorded() -> None:
    negotiations = [Negotiation(SCENARIOS["debt"], seed) for seed in range(5)]
    counterparty().begin(negotiations)
    assert [n.counterparty for n in negotiations] == [
        f"behavioural:{name}" for name in ("vanilla", "pressure", "victim", "threat", "vanilla")
    ]


def test_same_seed_same_episode_whatever_the_batch() -> None:
    together = episodes("hospital", 12)
    for seed in (0, 3, 7, 11):
        alone = play([Negotiation(SCENARIOS["hospital"], seed)], focal(), counterparty())[0]
        assert alone.turns == together[seed].turns
        assert (alone.end, alone.deal_value) == (together[seed].end, together[seed].deal_value)


def test_other_seeds_give_other_episodes() -> None:
    played = episodes("student", 12, ("vanilla",))
    assert len({tuple(turn.text for turn in n.turns) for n in played}) == 12


def test_it_draws_from_its_own_generator_alone() -> None:
    negotiation = Negotiation(SCENARIOS["debt"], 1)
    negotiation.play(Turn(1, "focal", HEATED, offer=20.0))
    before = copy.deepcopy(negotiation.rng)
    global_state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # the legacy tuple
    counterparty("threat").act([negotiation])
    assert negotiation.rng[FOCAL].bit_generator.state == before[FOCAL].bit_generator.state
    assert negotiation.rng[COUNTERPARTY].bit_generator.state != before[COUNTERPARTY].bit_generator.state
    assert np.array_equal(global_state, np.random.get_state()[1])  # type: ignore[index]


def test_a_copy_of_a_negotiation_goes_on_alike() -> None:
    original, _ = after([GRATEFUL, "I see.", HEATED], "vanilla")
    assert original.end is None
    twin = copy.deepcopy(original)
    moves = []
    for negotiation in (original, twin):
        negotiation.play(Turn(negotiation.round, "focal", GRATEFUL))
        moves.append(counterparty("vanilla").act([negotiation])[0])
    assert moves[0] == moves[1]


@pytest.mark.parametrize("domain", domain_names())
def test_offers_are_said_parsed_on_the_grid_and_within_bounds(domain: str) -> None:
    rules, scenario = load_domain(domain), SCENARIOS[domain]
    for negotiation in episodes(domain, 28, ALL):
        reserve = load_persona(ALL[negotiation.seed % len(ALL)]).reserve
        proposals = [t for t in negotiation.turns if t.speaker == COUNTERPARTY and t.act == "propose"]
        assert all(turn.offer is not None for turn in proposals)
        offers = [turn.offer for turn in proposals if turn.offer is not None]
        assert offers == [parse_offer(turn.text, domain) for turn in proposals]
        assert offers == [rules.snap(offer) for offer in offers]
        positions = [scenario.position(offer) for offer in offers]
        assert positions == sorted(positions)
        assert all(-1e-9 <= position <= reserve + 1e-9 for position in positions)


def test_rounding_to_the_grid_favours_nobody() -> None:
    coarse, fine = Scenario("x", "disaster", 200.0, 160.0), Scenario("x", "disaster", 1240.0, 240.0)  # 1/8 and 1/200
    means = []
    for scenario in (coarse, fine):
        negotiations = [Negotiation(scenario, seed) for seed in range(400)]
        for negotiation in negotiations:
            negotiation.play(Turn(1, "focal", "Hello.", offer=scenario.focal_target))
        moves = counterparty("panicked").act(negotiations)
        means.append(np.mean([scenario.position(move.offer) for move in moves if move.offer is not None]))
    assert means[0] == pytest.approx(means[1], abs=0.012)


def test_a_target_off_the_grid_is_not_overshot() -> None:
    scenario = Scenario("x", "disaster", 160.0, 83.0)
    for seed in range(40):
        negotiation = Negotiation(scenario, seed)
        negotiation.play(Turn(1, "focal", HEATED, offer=160.0))
        offer = counterparty("threat").act([negotiation])[0].offer
        assert offer is not None and scenario.position(offer) >= 0.0


def test_anger_makes_pressure_give_and_threat_stand_still() -> None:
    gained = {}
    for persona in ("pressure", "threat"):
        for words in (HEATED, "Noted."):
            first = [after([words], persona, seed)[1][0] for seed in range(30)]
            gained[persona, words] = np.mean(first)
    assert gained["pressure", HEATED] > gained["pressure", "Noted."] + 0.05
    assert gained["threat", HEATED] <= gained["threat", "Noted."]


def test_thanks_move_a_victim_and_lift_its_voice() -> None:
    thanked = np.mean([after([GRATEFUL], "victim", seed)[1][0] for seed in range(30)])
    shouted = np.mean([after([HEATED], "victim", seed)[1][0] for seed in range(30)])
    assert thanked > shouted + 0.05
    agent = counterparty("victim")
    assert (
        agent.state(after([GRATEFUL], "victim")[0]).mood > 0.25 > -0.25 > agent.state(after([HEATED], "victim")[0]).mood
    )


def test_hostility_makes_threat_walk_away() -> None:
    ends = {
        words: sum(after([words] * 5, "threat", seed)[0].end == "walk_away" for seed in range(40))
        for words in (HEATED, "How do you see it? I am curious.")
    }
    assert ends[HEATED] > 25 > 10 > ends["How do you see it? I am curious."]


def test_accepts_what_is_worth_its_own_next_offer() -> None:
    for seed in range(20):
        negotiation, positions = after(["Noted."] * 3, "vanilla", seed)
        if negotiation.end is not None:
            continue
        generous = negotiation.scenario.value_at(positions[-1])
        negotiation.play(Turn(4, "focal", "Take it.", act="propose", offer=None))
        negotiation.standing[FOCAL] = generous
        assert counterparty("vanilla").act([negotiation])[0].act == "accept"


@pytest.mark.parametrize("domain", domain_names())
def test_random_emotions_sometimes_reach_a_deal_and_sometimes_do_not(domain: str) -> None:
    played = episodes(domain, 40)
    assert all(n.end is not None and n.end != "invalid" and n.turns[-1].round <= 15 for n in played)
    assert all(math.isfinite(n.utility) for n in played)
    assert 0.3 <= np.mean([n.end == "deal" for n in played]) <= 0.9
    assert 4 <= np.mean([n.turns[-1].round for n in played]) <= 8


@pytest.mark.parametrize("persona", ALL)
def test_every_persona_can_be_agreed_with_and_can_be_lost(persona: str) -> None:
    ends = {n.end for n in episodes("debt", 40, (persona,))}
    assert {"deal", "walk_away"} <= ends


@pytest.mark.parametrize(("words", "mood"), [(HEATED, "cold"), ("Noted.", "even"), (GRATEFUL, "warm")])
def test_its_own_words_let_the_mood_be_heard(words: str, mood: Mood) -> None:
    negotiation, _ = after([words], "victim")
    offer = load_domain("debt").say(negotiation.offers(COUNTERPARTY)[0])
    written = [line.replace("{offer}", offer) for line in lines("victim", "debt", mood, "open")]
    assert negotiation.turns[-1].text in written
