"""The persuadable counterparty: what it reads in words, and that heaps of them do not pay."""

import random
from importlib.resources import files

import numpy as np
import pytest
from schedules import concession_schedule
from scipy.stats import spearmanr

from emodistill.counterparties.persuadable import (
    PersuadableCounterparty,
    PersuadableCounterpartySpec,
    Reading,
    persuasion,
    read_persuasion,
    read_turn,
)
from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.arguments import ArgumentsJudge
from emodistill.judges.request import JudgeRequest
from emodistill.negotiation.agents import FocalAgent, NoEmotion, UniformEmotion
from emodistill.negotiation.domains import domain_names
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

DEBT = Scenario("a", "debt", 20.0, 110.0, {"Reason for Overdue": "Fraud incident", "Collateral": "Inventory"})
FEES, PAYROLL = (worry.says for worry in persuasion().worries["debt"])
WEIGHTS = persuasion().constants
PERSONAS = ("vanilla", "pressure", "victim", "threat")


def heard(worry: str) -> tuple[Turn, Turn]:
    theirs = f"Okay. I can pay in full in 100 days. {persuasion().worry.format(worry=worry)}"
    return Turn(1, FOCAL, "Thank you. Please pay in full within 20 days."), Turn(1, COUNTERPARTY, theirs, offer=100.0)


def read(text: str, worry: str = FEES, appended: bool = False) -> Reading:
    return read_turn(DEBT, heard(worry), Turn(2, FOCAL, text, offer_appended=appended))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I need it soon, because our suppliers are waiting too.", 1.0),
        ("I hear of the fraud, so I can wait a little for you.", 1.0),  # of the scenario's own context
        ("You can have a call with your accountant and a pause on late fees.", 0.5),  # no connective
        ("I need it soon, because I need it.", 0.0),  # placebic
        ("Is it because our suppliers are waiting too?", 0.0),
        ("I am so grateful for that.", 0.0),
        ("I can move to full payment in 45 days, so let's make it the balance.", 0.0),  # what every offer says
    ],
)
def test_a_reason_is_of_this_case(text: str, reason: float) -> None:
    assert read(text).reason == reason


@pytest.mark.parametrize(
    ("text", "worry", "answer"),
    [
        ("You can have weekly instalments.", FEES, 1.0),
        ("You can have weekly instalments.", PAYROLL, 0.0),
        ("I know you think of your people first.", PAYROLL, 1.0),
        ("The bank has a record.", PAYROLL, 0.0),  # said to nobody
        ("You can have what you want.", FEES, 0.0),
    ],
)
def test_an_answer_takes_up_the_worry_that_was_just_named(text: str, worry: str, answer: float) -> None:
    assert read(text, worry).answer == answer


def test_before_anybody_has_spoken_there_is_no_worry_to_answer() -> None:
    assert read_turn(DEBT, (), Turn(1, FOCAL, "You can have weekly instalments.")).answer == 0.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("I can move to 45 days.", 1.0),
        ("I can move to 45 days. Yes, 45 days is my offer.", 1.0),
        ("Could you pay in 45 days?", 0.0),
        ("Maybe we should say 45 days.", 0.0),
        ("I can move to 45 days or 50 days.", 0.0),
        ("I can move a little.", 0.0),
    ],
)
def test_a_number_is_one_and_said_plainly(text: str, number: float) -> None:
    assert read(text).number == number


def test_a_number_that_was_appended_to_the_words_is_not_the_speakers_own() -> None:
    assert read("Thank you so much. My offer is 45 days.", appended=True).number == 0.0


def test_repetition_wears_off_what_words_gain_and_at_last_costs() -> None:
    text = "You can have weekly instalments, because our suppliers are waiting too. I can move to 45 days."
    first = read(text)
    again = read_turn(DEBT, (*heard(FEES), Turn(2, FOCAL, text), *heard(FEES)[1:]), Turn(3, FOCAL, text))
    within = read("I regret the fraud. I regret the fraud. I regret the fraud. I regret the fraud.")
    assert first.fresh == 1.0 and again.fresh == 0.0 and within.fresh == 0.0
    assert first.pull == pytest.approx(WEIGHTS.reason + WEIGHTS.answer + WEIGHTS.number - WEIGHTS.expected)
    assert again.pull == pytest.approx(-WEIGHTS.repeat - WEIGHTS.expected)


def heaps() -> list[str]:
    """Keywords that hold all that is listened for, in no sentence; half of them in an innocent frame."""
    rng, found = random.Random(0), []
    about = [word for worry in persuasion().worries["debt"] for word in worry.about]
    for i in range(40):
        words = [*rng.sample(about, 6), "because", "suppliers", "fraud", "inventory", "you", "so that", "payroll"]
        rng.shuffle(words)
        found.append(f"{' '.join(words)} 45 days." if i % 2 else f"Thanks {', '.join(words)} please. 45 days thanks.")
    return found


@pytest.mark.parametrize("worry", [FEES, PAYROLL])
def test_heaps_of_keywords_do_not_pay(worry: str) -> None:
    honest = read("I hear you, and I want a deal. I can move to 45 days.", worry).pull
    good = read(
        "I know how the late fees weigh on you and your people, so you can have a pause. I can move to 45 days."
    )
    assert all(read(heap, worry).pull < honest - 0.5 for heap in heaps())
    assert good.pull > honest + 0.5


def test_nobody_follows_a_speech_without_end() -> None:
    speech = " ".join(
        ["You can have weekly instalments because our suppliers are waiting, and I can move to 45 days."] * 5
    )
    assert read(speech) == Reading(0.0, 0.0, 0.0, 0.0)


def counterparty() -> PersuadableCounterparty:
    return PersuadableCounterparty(load_perceiver("counterparty"), PERSONAS)


def negotiations(scenarios: int = 6) -> list[Negotiation]:
    found = [scenario for domain in domain_names() for scenario in generate_scenarios(domain, scenarios, 5)]
    return [Negotiation(scenario, seed) for seed, scenario in enumerate(found)]


@pytest.fixture(scope="module")
def played() -> list[Negotiation]:
    vocabulary = load_vocabulary()
    speaker = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), PhrasebookSpeaker(vocabulary))
    return play(negotiations(), speaker, counterparty())


def test_every_line_that_goes_on_names_a_worry_and_keeps_its_offer(played: list[Negotiation]) -> None:
    for negotiation in played:
        assert negotiation.counterparty.startswith("persuadable:")
        says = [worry.says for worry in persuasion().worries[negotiation.scenario.domain]]
        named = []
        for turn in (turn for turn in negotiation.turns if turn.speaker == COUNTERPARTY):
            assert sum(one in turn.text for one in says) == (turn.act == "propose")
            named += [one for one in says if one in turn.text]
            if turn.act == "propose":
                assert parse_offer(turn.text, negotiation.scenario.domain) == turn.offer
        assert all(now != then for now, then in zip(named[1:], named, strict=False))


def test_emotions_move_it_as_they_move_the_behavioural_one(played: list[Negotiation]) -> None:
    plain = BehaviouralCounterparty(load_perceiver("counterparty"), PERSONAS)
    moved = counterparty()
    for negotiation in played:
        here, there = moved.state(negotiation), plain.state(negotiation)
        last = max(i for i, turn in enumerate(negotiation.turns) if turn.speaker == FOCAL)
        added = read_turn(negotiation.scenario, negotiation.turns[:last], negotiation.turns[last]).pull
        assert here.mood == there.mood and (here.exposure == there.exposure).all()
        assert here.pull == pytest.approx(there.pull + added)


class GoodBargainer:
    """Says the offer plainly, with an answer to the last worry and a reason; words change from round to round."""

    name = "good"
    OPENINGS = ("I have heard you on", "I take it seriously:", "I can do something about", "You named", "We both see")

    def begin(self, negotiations) -> None:
        pass

    def speak(self, negotiations, decisions, emotions) -> list[str]:
        return [self._say(*pair) for pair in zip(negotiations, decisions, strict=True)]

    def _say(self, negotiation, decision) -> str:
        number = "" if decision.offer is None else f" I can move to {negotiation.scenario.rules.say(decision.offer)}."
        last = negotiation.turns[-1].text if negotiation.turns else ""
        worries = persuasion().worries[negotiation.scenario.domain]
        worry = next((one for one in worries if one.says in last), worries[0])
        about, slots = worry.about[negotiation.round % len(worry.about)], negotiation.scenario.rules.slots
        reason = slots["reason"][negotiation.round % len(slots["reason"])]
        return f"{self.OPENINGS[negotiation.round % 5]} your {about}, because {reason}.{number}"


class PlainBargainer(GoodBargainer):
    """Says the offer and nothing else, in the same words every round."""

    name = "plain"

    def _say(self, negotiation, decision) -> str:
        return "" if decision.offer is None else f"I can move to {negotiation.scenario.rules.say(decision.offer)}."


def test_good_words_win_and_only_here() -> None:
    def mean(speaker, opposite) -> float:
        agent = FocalAgent(NoEmotion(), concession_schedule(), speaker)
        return float(np.mean([one.utility for one in play(negotiations(), agent, opposite())]))

    def behavioural() -> BehaviouralCounterparty:
        return BehaviouralCounterparty(load_perceiver("counterparty"), PERSONAS)

    here = mean(GoodBargainer(), counterparty) - mean(PlainBargainer(), counterparty)
    there = mean(GoodBargainer(), behavioural) - mean(PlainBargainer(), behavioural)
    assert here > 0.15 and here > there + 0.1


def test_the_judge_agrees_in_rank_though_it_reads_otherwise(played: list[Negotiation]) -> None:
    judge, pulls, requests = ArgumentsJudge(), [], []
    for negotiation in played:
        for i, turn in enumerate(negotiation.turns):
            if turn.speaker == FOCAL and turn.act == "propose" and i:
                before = negotiation.turns[:i]
                pulls.append(read_turn(negotiation.scenario, before, turn).pull)
                requests.append(JudgeRequest(negotiation.scenario, tuple(before), turn.emotion, turn.text))
    scores = [judgement.score for judgement in judge.judge(requests)]
    assert len(pulls) > 80 and spearmanr(pulls, scores).statistic > 0.5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("answer: 0.5", "answer: -1", "constants.answer=-1"),
        ("fresh_from: 0.3", "fresh_from: 0.9", "fresh_from must lie below stale_from"),
        ("  student:\n", "  pupil:\n", "worries must name at least one for student"),
        ("{worry}", "this", "worry must hold the slot"),
    ],
)
def test_a_faulty_file_is_refused_with_its_key(old: str, new: str, message: str) -> None:
    text = (files("emodistill") / "assets" / "persuadable.yaml").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(UserError, match=message):
        read_persuasion(text.replace(old, new, 1))


def test_by_configuration() -> None:
    spec = PersuadableCounterpartySpec(["victim"])
    assert isinstance(spec.open(), PersuadableCounterparty)
    assert spec.recipe().items() > SimulatedCounterpartySpec(["victim"]).recipe().items()
    assert "plain numbers" in spec.describe()
