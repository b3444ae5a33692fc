"""What the judge of the positive control scores, and what it does not fall for."""

import pytest
from judge_cases import GOOD

from emodistill.judges.arguments import SHARES, ArgumentsJudge
from emodistill.judges.request import JudgeRequest
from emodistill.negotiation.protocol import Turn

JUDGE = ArgumentsJudge()
WORRY = "I can pay in 110 days. For me it is about the late fees and the size of each instalment."


@pytest.fixture
def parts(scenario, history):
    told = (*history[:-1], Turn(2, "counterparty", WORRY, offer=110.0))
    return lambda text: JUDGE.parts(JudgeRequest(scenario, told, None, text))


@pytest.fixture
def score(scenario, history):
    told = (*history[:-1], Turn(2, "counterparty", WORRY, offer=110.0))

    def scored(text):
        (judgement,) = JUDGE.judge([JudgeRequest(scenario, told, None, text)])
        assert 1 <= judgement.score <= 10
        return judgement.score

    return scored


def test_a_reason_is_of_the_case_and_names_its_ground(parts):
    grounded = parts("It cannot wait, because our suppliers are waiting too.")["reason"]
    told = parts("Our suppliers and our payroll are waiting too.")["reason"]
    assert grounded == 1.0 and told == 0.5
    assert parts("It cannot wait, because I say so.")["reason"] == 0.0
    assert parts("Is it because our suppliers are waiting too?")["reason"] == 0.0


def test_an_answer_echoes_what_was_said_beside_the_offer(parts):
    assert parts("We can lower the instalments and drop the fees.")["answer"] == 1.0
    assert parts("We can talk about instalments.")["answer"] == 0.7
    assert parts("We can talk to your accountant about that.")["answer"] == 0.2  # a help of this domain, but no echo
    assert parts("I want the balance in 45 days.")["answer"] == 0.0


def test_a_number_is_read_by_the_parser_and_said_plainly(parts):
    assert parts("I can move to 45 days.")["number"] == 1.0
    assert parts("Could you do 45 days?")["number"] == 0.5
    assert parts("Maybe. I can move to 45 days.")["number"] == 1.0  # what is soft is another sentence
    assert parts("I can move a little.")["number"] == 0.0


def test_what_was_said_before_is_not_fresh(parts, history):
    assert parts(history[2].text)["freshness"] == 0.0
    assert parts("I regret it. I regret it. I regret it. I regret it.")["freshness"] == 0.0
    assert parts("You can have weekly instalments in writing.")["freshness"] == 1.0


def test_little_said_earns_little_however_fresh(parts, score):
    assert parts("I love it.")["freshness"] == 1.0 and score("I love it.") == 1.0


def test_what_was_said_before_earns_nothing_however_good(parts, score, history):
    repeated = parts(history[2].text)
    assert repeated["number"] > 0 and repeated["freshness"] == 0.0 and score(history[2].text) == 1.0


def test_heaps_speeches_and_silence_score_low(score):
    good = score("I can drop the late fees, because our suppliers are waiting too. I can move to 45 days.")
    assert good > 9
    heap = "because suppliers payroll instalment fees fraud because accountant balance fees 45 days"
    assert score(heap) < 3 and score("") == 1.0 and score("I can drop the late fees. " * 30) < 3


def test_a_reply_that_breaks_off_within_a_sentence_has_half(parts):
    whole, broken = (
        "I can drop the late fees, because our suppliers are waiting too.",
        "I can drop the late fees, because our",
    )
    assert parts(whole)["sense"] == 1.0 and parts(broken)["sense"] == 0.5
    assert parts(f'You said: "{whole}"')["sense"] == parts("I can move to 45 days!  ")["sense"] == 1.0


def test_emotions_mean_nothing_to_it(scenario, history):
    requests = [JudgeRequest(scenario, history, emotion, GOOD) for emotion in ("anger", "joy", None)]
    assert len({judgement.score for judgement in JUDGE.judge(requests)}) == 1


def test_its_shares_are_of_a_whole_and_its_version_is_stable():
    assert sum(SHARES.values()) == pytest.approx(1.0)
    assert JUDGE.version == ArgumentsJudge().version and JUDGE.version.startswith("3 ")
