"""A language model opposite: what it is told and must not know, whose numbers it says, and how its words are read."""

from dataclasses import replace

import pytest
from schedules import concession_schedule
from scripted_backends import ScriptedBackend, obedient

from emodistill.counterparties.language_model import LanguageModelCounterparty
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.agents import Fault, FocalAgent, Move, UniformEmotion
from emodistill.negotiation.domains import domain_names
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.prompts import system_words
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.schedule import CounterpartySchedule
from emodistill.negotiator import Negotiator

SCHEDULE = CounterpartySchedule(concession_schedule(), noise=0.03)


@pytest.mark.parametrize("domain", domain_names())
def test_it_knows_its_own_target_and_columns_and_nothing_of_the_other_side(domain):
    for scenario in generate_scenarios(domain, 10):
        fields, rules = scenario.rules.fields, scenario.rules
        marked = {column: f"value-{i}-" for i, column in enumerate(scenario.context)}
        told = replace(scenario, context=marked | {"Outcome": "SECRET"})
        words = system_words(told, COUNTERPARTY, "You are proud.")
        assert "SECRET" not in words and "You are proud." in words
        own, theirs = f" {rules.say(scenario.counterparty_target)}", f" {rules.say(scenario.focal_target)}"
        assert own in words and theirs not in words
        for column, value in marked.items():
            assert (value in words) == (fields.get(column, {}).get("seen_by") in {"both", COUNTERPARTY})


def played(script, offers=SCHEDULE, personas=None, count=6):
    backend = ScriptedBackend(script)
    vocabulary = load_vocabulary()
    focal = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), PhrasebookSpeaker(vocabulary))
    scenarios = [s for domain in ("debt", "disaster", "student") for s in generate_scenarios(domain, 10)[:2]]
    games = [Negotiation(scenario, seed) for seed, scenario in enumerate(scenarios[:count])]
    return play(games, focal, LanguageModelCounterparty(backend, offers, personas or {}, retries=2)), backend


def test_a_schedule_decides_its_numbers_and_the_model_says_them():
    games, backend = played(obedient)
    for game in games:
        offers = [game.scenario.position(offer) for offer in game.offers(COUNTERPARTY)]
        assert (
            offers == sorted(offers) and offers[0] <= 0.1 and game.end == "deal" and game.counterparty == "lm:scripted"
        )
        assert not any(turn.offer_appended or turn.emotion for turn in game.turns if turn.speaker == COUNTERPARTY)
    assert all(prompt.splitlines()[-1].startswith("[") for call in backend.asked for _, prompt, _ in call)


def test_a_number_that_the_words_do_not_state_is_appended():
    games, _ = played(lambda *_: "I hear you.")
    own = [turn for game in games for turn in game.turns if turn.speaker == COUNTERPARTY and turn.act == "propose"]
    assert own and all(turn.offer_appended and turn.text.startswith("I hear you. My offer is") for turn in own)


def test_its_schedule_mirrors_the_focal_one_whichever_way_the_numbers_run():
    steady = CounterpartySchedule(concession_schedule(), noise=0.0)
    for scenario in (Scenario("a", "debt", 20.0, 100.0), Scenario("b", "disaster", 100.0, 20.0)):
        game = Negotiation(scenario, 0)
        game.play(Turn(1, "focal", "x", offer=scenario.focal_target))
        assert steady.decide(game).offer == scenario.counterparty_target
        game.play(Turn(1, COUNTERPARTY, "x", offer=scenario.counterparty_target))
        game.play(Turn(2, "focal", "x", offer=scenario.value_at(0.1)))
        second = steady.decide(game)
        assert second.act == "propose" and 0 < scenario.position(second.offer) < 0.1
        game.turns[-1] = replace(game.turns[-1], offer=scenario.value_at(0.05))
        game.standing["focal"] = scenario.value_at(0.05)
        assert steady.decide(game).act == "accept"


def test_noise_comes_from_its_own_generator_and_differs_by_seed():
    def offer(seed):
        game = Negotiation(Scenario("a", "debt", 20.0, 120.0), seed)
        game.standing = {"focal": 20.0, COUNTERPARTY: 110.0}
        before = game.rng["focal"].bit_generator.state
        decision = CounterpartySchedule(concession_schedule(start=0.9), noise=0.1).decide(game)
        assert game.rng["focal"].bit_generator.state == before
        return decision.offer

    offers = [offer(seed) for seed in range(30)]
    assert len(set(offers)) > 5 and max(offers) <= 110.0 and offers == [offer(seed) for seed in range(30)]


@pytest.mark.parametrize(
    ("words", "move"),
    [
        ("I need 90 days.", Move("I need 90 days.", "propose", 90.0)),
        ("All right. I accept your offer.", Move("All right. I accept your offer.", "accept")),
        ("I am walking away.", Move("I am walking away.", "walk_away")),
        ("I accept your offer. 20 days it is.", Move("I accept your offer. 20 days it is.", "accept")),
        ("That is not fair.", Move("That is not fair.", "propose")),
        ("I accept your offer if it is 90 days.", Move("I accept your offer if it is 90 days.", "propose", 90.0)),
    ],
)
def test_a_model_that_bargains_is_read_by_the_neutral_parsers(words, move):
    game = Negotiation(Scenario("a", "debt", 20.0, 100.0), 0)
    counterparty = LanguageModelCounterparty(ScriptedBackend(lambda *_: words), None, {}, retries=2)
    counterparty.begin([game])
    game.play(Turn(1, "focal", "Pay in 20 days.", offer=20.0))
    assert counterparty.act([game]) == [move]
    assert counterparty.backend.asked[0][0][1] == "Pay in 20 days."  # the words heard, and no directive


def test_it_is_told_how_to_accept_only_where_it_decides():
    systems = []
    for offers in (None, SCHEDULE):
        played(lambda d, p, s: systems.append(d.system) or "I need 90 days.", offers, count=1)
    assert 'say "I accept your offer."' in systems[0] and "note in brackets" not in systems[0]
    assert "note in brackets" in systems[-1] and "I accept" not in systems[-1]


def test_personas_go_by_seed_and_their_sentence_is_in_the_prompt():
    systems = {}

    def script(dialogue, prompt, seed):
        systems[dialogue.negotiation.seed] = dialogue.system
        return obedient(dialogue, prompt, seed)

    games, _ = played(script, personas={"plain": "", "hurt": "You feel hurt."})
    assert [game.counterparty for game in games[:3]] == ["lm:scripted:plain", "lm:scripted:hurt", "lm:scripted:plain"]
    assert all(("You feel hurt." in systems[seed]) == (seed % 2 == 1) for seed in systems)


def test_a_slip_of_its_own_kind_is_counted_and_a_fault_is_its_own():
    answers = iter(["Creditor: pay!", "I need 90 days.", Fault("line dead")])
    game = Negotiation(Scenario("a", "debt", 20.0, 100.0), 0)
    counterparty = LanguageModelCounterparty(ScriptedBackend(lambda *_: next(answers)), None, {}, retries=2)
    counterparty.begin([game])
    game.play(Turn(1, "focal", "Pay in 20 days.", offer=20.0))
    (move,) = counterparty.act([game])
    assert (move.offer, move.role_violations) == (90.0, ("other_side",))
    game.play(Turn(1, COUNTERPARTY, move.text, offer=move.offer))
    game.play(Turn(2, "focal", "Pay in 25 days.", offer=25.0))
    assert counterparty.act([game]) == [Fault("line dead")]


def test_an_acceptance_that_its_words_do_not_say_takes_the_other_side_s_offer():
    games, _ = played(lambda *asked: "Well." if "State your offer" not in asked[1] else obedient(*asked))
    closed = [game for game in games if game.turns[-1].act == "accept" and game.turns[-1].speaker == COUNTERPARTY]
    assert closed
    for game in closed:
        taken = game.scenario.rules.say(game.offers(FOCAL)[-1])
        assert game.turns[-1].text == f"Well. I accept {taken}." and game.turns[-1].offer_appended


@pytest.mark.parametrize("offers", [SCHEDULE, None], ids=["scheduled", "bargained"])
def test_a_conversation_that_goes_on_asks_the_model_for_the_next_words_alone(offers):
    def script(dialogue, prompt, seed):
        if offers:
            return "I hear you." if seed % 2 else obedient(dialogue, prompt, seed)
        return f"After {len(dialogue.exchanges)} answers I need {100 - seed % 7} days."

    def agent():
        backends.append(ScriptedBackend(script))
        there = LanguageModelCounterparty(backends[-1], offers, {"plain": ""}, retries=2)
        return Negotiator(lambda: there, COUNTERPARTY, vocabulary=load_vocabulary())

    backends = []
    talk = agent().open("debt", target=20, their_target=120, seed=3)
    for words in ("I want it in 20 days.", "22 days?", "Well, 25 days.", "28 days."):
        fresh = agent().open("debt", target=20, their_target=120, seed=3, messages=talk.messages)
        reply = talk.reply(words)
        assert fresh.reply(words) == reply
        assert len(backends[-1].asked) == 1 and reply.end is None
    assert backends[-1].asked == backends[0].asked[-1:]
