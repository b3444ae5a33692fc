"""Several judges as one: the right arithmetic, and no score from too few."""

import json

import pytest
from answering import BILL, Answering

from emodistill.errors import UserError
from emodistill.judges.ensemble import EnsembleJudge
from emodistill.judges.llm import LanguageModelJudge
from emodistill.judges.request import Judgement


class Constant:
    """One score for all, or none; speaks up only where it is asked to."""

    def __init__(self, score, version="1"):
        self.name, self.version, self.score, self.sizes = f"constant {score}", version, score, []

    def judge(self, requests, on_judgement=None):
        self.sizes.append(len(requests))
        return [Judgement(self.score, None if self.score else "asleep", usage=BILL) for _ in requests]


def ensemble(*scores, **settings):
    return EnsembleJudge({f"judge {i}": Constant(score) for i, score in enumerate(scores)}, **settings)


@pytest.mark.parametrize(("how", "score"), [("mean", 5.33), ("median", 5.0), ("min", 2.0)])
def test_one_score_is_made_of_several(ask, how, score):
    assert ensemble(9.0, 2.0, 5.0, how=how).judge(ask("a"))[0].score == score


def test_with_fewer_scores_than_needed_it_is_missing_and_says_whose(ask):
    (judgement,) = ensemble(9.0, None, 5.0).judge(ask("a"))
    assert judgement.score is None and "2 of the 3" in judgement.reason and "judge 1: asleep" in judgement.reason
    assert ensemble(9.0, None, 5.0, needs=2).judge(ask("a"))[0].score == 7.0
    assert ensemble(None, None, needs=1).judge(ask("a"))[0].score is None


def test_bill_and_replies_of_all_members_are_kept(ask):
    (judgement,) = ensemble(9.0, None, needs=1).judge(ask("a"))
    assert judgement.usage.prompt_tokens == 2 * BILL.prompt_tokens and judgement.usage.cost == 2 * BILL.cost
    assert json.loads(judgement.raw) == {"judge 0": {"score": 9.0}, "judge 1": {"reason": "asleep"}}


def test_the_last_member_completes_judgements_as_they_arrive(ask):
    told = []
    server = Answering(lambda content: '{"score": 7}')
    judge = EnsembleJudge({"fixed": Constant(5.0), "lm": LanguageModelJudge(server)}, chunk=2)
    judged = judge.judge(ask("one", "two", "three"), lambda place, given: told.append((place, given)))
    assert [judgement.score for judgement in judged] == [6.0] * 3
    assert [place for place, _ in told] == [1, 0, 2] and all(judged[place] == given for place, given in told)
    assert judge.judges["fixed"].sizes == [2, 1]
    assert judge.judge([]) == []


def test_whatever_changes_a_score_changes_the_version():
    versions = {
        ensemble(9.0, 5.0).version,
        ensemble(9.0, 5.0, how="min").version,
        ensemble(9.0, 5.0, needs=1).version,
        ensemble(9.0, 4.0).version,
        EnsembleJudge({"judge 0": Constant(9.0), "judge 1": Constant(5.0, version="2")}).version,
    }
    assert len(versions) == 5 and ensemble(9.0, 5.0).version == ensemble(9.0, 5.0).version


@pytest.mark.parametrize("setting", [{"how": "max"}, {"needs": 0}, {"needs": 3}, {"chunk": 0}, {"chunk": 2.5}])
def test_settings_without_a_meaning_are_refused(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        ensemble(9.0, 5.0, **setting)


def test_nobody_is_no_ensemble():
    with pytest.raises(UserError, match="0 judges"):
        EnsembleJudge({})
