import pytest

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.judges.request import JudgeRequest
from emodistill.judges.rubric import RubricJudge
from emodistill.negotiation.protocol import Turn
from emodistill.negotiation.scenarios import Scenario


@pytest.fixture
def scenario():
    """Debt: the creditor wants 30 days, the debtor 130; 10 days are a tenth of the way."""
    return Scenario("debt-000", "debt", focal_target=30.0, counterparty_target=130.0)


@pytest.fixture
def history():
    """Two rounds; the creditor stands at 40 days (position 0.9), the debtor at 110 (0.2)."""
    return (
        Turn(1, "focal", "We need to settle this invoice. My offer is 30 days.", offer=30.0),
        Turn(1, "counterparty", "I can pay in 120 days.", offer=120.0),
        Turn(2, "focal", "The account has been open for a long time. I can move to 40 days.", offer=40.0),
        Turn(2, "counterparty", "Perhaps 110 days would work for me.", offer=110.0),
    )


@pytest.fixture
def ask(scenario, history):
    return lambda *texts: [JudgeRequest(scenario, history, "anger", text) for text in texts]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "on the way" / "ledger.sqlite"


@pytest.fixture(scope="session")
def judge():
    return RubricJudge(load_vocabulary(), load_perceiver("judge"))


@pytest.fixture
def score(judge, scenario, history):
    def of(utterance, emotion="anger", history=history, scenario=scenario):
        return judge.judge([JudgeRequest(scenario, history, emotion, utterance)])[0].score

    return of
