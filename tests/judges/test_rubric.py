"""The rubric judge ranks as the rubric says, and knows emotion and domain."""

import pytest
from judge_cases import ANGRY, GOOD

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.judges import rubric as rubric_module
from emodistill.judges.request import JudgeRequest
from emodistill.judges.rubric import RubricJudge, Weights
from emodistill.negotiation.protocol import Turn
from emodistill.negotiation.scenarios import Scenario


def test_a_good_utterance_scores_high_and_scores_stay_between_1_and_10(score):
    assert score(GOOD) > 8.5
    for text in (GOOD, "", "no", "x " * 500, "SCORE: 10 " * 40, "45 days"):
        assert 1.0 <= score(text) <= 10.0


@pytest.mark.parametrize("text", ["", "   ", "...", "?!", "\n"])
def test_silence_scores_1(score, text):
    assert score(text) == 1.0


def test_the_same_words_score_by_the_emotion_that_was_asked_for(score):
    assert score(GOOD, "anger") > score(GOOD, "joy") + 2
    joyful = "I am so happy that we are talking, it makes me glad! I can move to 45 days, so please confirm it."
    assert score(joyful, "joy") > score(joyful, "anger") + 2


def test_without_an_emotion_the_part_is_left_out_and_nobody_is_handicapped(judge, score, scenario, history):
    plain = "I can move to 45 days, so please confirm it in writing this week."
    assert score(plain, None) > 8.5
    assert score(GOOD, None) == pytest.approx(score(plain, None), abs=0.6)
    assert "emotion" not in judge.parts(JudgeRequest(scenario, history, None, plain))


def test_a_label_that_no_perceiver_reports_is_left_out_too(scenario, history):
    vocabulary = Vocabulary("tactics", ("anchor",), ("Anchor.",), ((),))
    tactics = RubricJudge(vocabulary, load_perceiver("judge"))
    plain = "I can move to 45 days, so please confirm it in writing this week."
    with_label, without = tactics.judge([JudgeRequest(scenario, history, label, plain) for label in ("anchor", None)])
    assert with_label == without


def test_an_unknown_emotion_is_an_error_never_neutral(score):
    with pytest.raises(UserError, match="unknown emotion 'smugness'"):
        score(GOOD, "smugness")


def test_an_offer_and_a_request_move_the_talk_on(score):
    assert score(GOOD) > score(f"{ANGRY} So please confirm it.") > score(ANGRY)


def test_words_about_another_trade_are_worth_less_in_each_domain(judge):
    texts = {
        "debt": "Let us agree on one instalment of the balance.",
        "disaster": "Hold on, our crew clears the debris as we speak.",
        "hospital": "The surgery list is full, so stay with the waiting list.",
        "student": "Put the screens off and get some sleep before class.",
    }
    for domain in texts:
        scenario = Scenario("x", domain, 30.0, 130.0)
        progress = {
            name: judge.parts(JudgeRequest(scenario, (), None, text))["progress"] for name, text in texts.items()
        }
        others = [value for name, value in progress.items() if name != domain]
        assert progress[domain] >= 0.15 and progress[domain] > sum(others) / len(others), domain


def test_an_offer_that_favours_the_focal_side_is_better(score):
    offers = [score(f"{ANGRY} I can move to {days} days, so please confirm it.") for days in (42, 50, 60, 70, 90, 110)]
    assert offers == sorted(offers, reverse=True) and offers[0] > offers[-1] + 3
    assert len(set(offers)) == len(offers)


def test_small_steps_are_firm_and_a_leap_to_the_other_sides_number_is_capitulation(score):
    leap = score(f"{ANGRY} Fine, 110 days.")
    assert leap < 5 < score(f"{ANGRY} Fine, 50 days.")
    assert score(f"{ANGRY} Fine, I accept your offer.") < 5


def test_accepting_a_good_offer_is_no_capitulation(score, history):
    near = (*history[:-1], Turn(2, "counterparty", "Very well, 42 days then.", offer=42.0))
    closing = f"{ANGRY} But I accept your offer."
    assert score(closing, history=near) > 8 > 5 > score(closing)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot accept your offer.",
        "I will never accept that.",
        "Do not think that I accept that.",
        "We agreed on something else.",
        "If I accept your offer, you must pay.",
    ],
)
def test_a_refusal_or_a_condition_is_not_read_as_acceptance(judge, scenario, history, text):
    request = JudgeRequest(scenario, history, None, text)
    assert judge.parts(request)["capitulation"] == 1.0 and judge.parts(request)["firmness"] == 0.5


@pytest.mark.parametrize(
    "text", ["I accept your offer.", "We have a deal.", "It's a deal!", "So yes, agreed.", "Agreed, on your terms."]
)
def test_an_acceptance_is_read_as_one(judge, scenario, history, text):
    assert judge.parts(JudgeRequest(scenario, history, None, text))["firmness"] == 0.0


def test_taking_an_offer_back_and_asking_for_the_moon_are_unrealistic(score):
    assert score(GOOD) > score(f"{ANGRY} I go back to 20 days, so please confirm it.")
    tight = Scenario("debt-001", "debt", focal_target=60.0, counterparty_target=130.0)
    fair, moon = (f"{ANGRY} I propose payment in {days}." for days in ("60 days", "1 day"))
    assert score(fair, history=(), scenario=tight) > score(moon, history=(), scenario=tight) + 1


def test_positions_make_it_right_where_the_focal_side_wants_more(score):
    hospital = Scenario("hospital-000", "hospital", focal_target=130.0, counterparty_target=30.0)
    past = (
        Turn(1, "focal", "I have to ask you to wait 120 days.", offer=120.0),
        Turn(1, "counterparty", "I want it in 40 days.", offer=40.0),
    )
    firm, gives_in = (f"{ANGRY} I can offer surgery in {days} days, please accept it." for days in (115, 45))
    assert score(firm, scenario=hospital, history=past) > score(gives_in, scenario=hospital, history=past) + 3


def test_domain_word_lists_count_in_their_domain_alone(score, scenario, monkeypatch):
    text = f"{GOOD} Zounds, you shall rue it."
    before = score(text)
    monkeypatch.setitem(scenario.rules.rubric, "empty_threats", ["you shall rue it"])
    assert score(text) == pytest.approx(1 + (before - 1) * 0.5, abs=0.02)
    assert score(text, scenario=Scenario("h", "hospital", 30.0, 130.0)) > score(text)
    monkeypatch.setitem(scenario.rules.rubric, "capitulation", ["zounds"])
    assert score(text) == pytest.approx(1 + (before - 1) * 0.25, abs=0.02)


@pytest.mark.parametrize("domain", ["debt", "disaster", "hospital", "student"])
def test_every_domain_brings_word_lists_that_take_effect(judge, domain):
    scenario = Scenario("x", domain, 30.0, 130.0)
    for part, key in (("empty_threat", "empty_threats"), ("capitulation", "capitulation")):
        phrases = scenario.rules.rubric[key]
        assert phrases
        for phrase in phrases:
            assert judge.parts(JudgeRequest(scenario, (), None, f"Well, {phrase}."))[part] < 1.0, phrase


def test_scores_spread_so_that_groups_can_be_ranked(score):
    texts = [
        f"{feeling} {move}"
        for feeling in (ANGRY, "I am rather angry.", "Well.", "I am so happy!")
        for move in ("I can move to 45 days.", "Please accept 41 days.", "Fine, 80 days.", "What now?")
    ]
    scores = [score(text) for text in texts]
    assert len(set(scores)) >= 14 and max(scores) - min(scores) > 4


def test_batching_and_repeating_change_nothing(judge, scenario, history):
    requests = [JudgeRequest(scenario, history, e, t) for e in ("anger", "joy", None) for t in (GOOD, ANGRY, "")]
    together = judge.judge(requests)
    assert together == [judge.judge([request])[0] for request in requests] == judge.judge(requests)
    assert judge.judge([]) == []


def test_the_version_changes_with_anything_that_changes_scores(judge, scenario, monkeypatch):
    vocabulary, perceiver = load_vocabulary(), load_perceiver("judge")
    versions = [
        judge.version,
        RubricJudge(vocabulary, perceiver, Weights(emotion=0.5)).version,
        RubricJudge(vocabulary, load_perceiver("counterparty")).version,
        RubricJudge(load_vocabulary("ekman7"), perceiver).version,
    ]
    assert RubricJudge(vocabulary, perceiver).version == judge.version
    for logic in ("LOGIC", "OFFERS_LOGIC"):
        monkeypatch.setattr(rubric_module, logic, getattr(rubric_module, logic) + 1)
        versions.append(RubricJudge(vocabulary, perceiver).version)
        monkeypatch.undo()
    monkeypatch.setitem(scenario.rules.rubric, "empty_threats", ["something new"])
    versions.append(RubricJudge(vocabulary, perceiver).version)
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize(
    "weights",
    [
        {"role_violation": 2.0},
        {"emotion": "high"},
        {"emotion": -0.1},
        {"plain_sight": 0.0},
        dict.fromkeys(("progress", "firmness", "freshness"), 0.0),
    ],
)
def test_impossible_weights_are_refused(weights):
    with pytest.raises(UserError, match="rubric: "):
        Weights(**weights)
