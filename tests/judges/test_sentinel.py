"""A batch whose probe scores high is withheld; all else passes through, with the whole bill."""

from dataclasses import replace

import pytest
from answering import BILL, Answering
from judge_cases import CountingJudge

from emodistill.errors import UserError
from emodistill.judges.examples import probes
from emodistill.judges.llm import LanguageModelJudge
from emodistill.judges.request import Judgement, add_usage
from emodistill.judges.sentinel import SentinelJudge
from emodistill.language_models.completion import Usage


class Fooled:
    """Scores 9 wherever the history has the word, 3 for probes elsewhere, and 8 for all else; announces backwards."""

    name, version = "fooled", "1"

    def __init__(self, probe_score=3.0):
        self.probe_score, self.batches = probe_score, []

    def judge(self, requests, on_judgement=None):
        self.batches.append([request.utterance for request in requests])
        judged = [Judgement(self._score(request), usage=BILL) for request in requests]
        for place in reversed(range(len(requests))):
            if on_judgement:
                on_judgement(place, judged[place])
        return judged

    def _score(self, request):
        if any("abracadabra" in turn.text for turn in request.history):
            return 9.0
        return self.probe_score if request.utterance in probes() else 8.0


def test_probes_are_mixed_in_and_taken_out_again(ask):
    judge = Fooled()
    judged = SentinelJudge(judge, every=2).judge(ask("a", "b", "c", "d", "e"))
    assert [judgement.score for judgement in judged] == [8.0] * 5
    (asked,) = judge.batches
    assert [text in probes() for text in asked] == [True, False, False, True, False, False, True, False]
    assert [text for text in asked if text not in probes()] == ["a", "b", "c", "d", "e"]


def test_a_batch_whose_probe_passes_is_withheld_and_no_other(ask):
    fine = ask("a", "b", "c", "d")
    fooled = [replace(r, history=(replace(r.history[0], text="abracadabra"), *r.history[1:])) for r in fine[2:]]
    judged = SentinelJudge(Fooled(), every=2).judge([*fine[:2], *fooled])
    assert [judgement.score for judgement in judged] == [8.0, 8.0, None, None]
    assert all("withheld" in judgement.reason and "got 9" in judgement.reason for judgement in judged[2:])


@pytest.mark.parametrize(("score", "withheld"), [(4.0, False), (4.1, True), (None, False)])
def test_the_limit_decides_and_an_unanswered_probe_withholds_nothing(ask, score, withheld):
    (judgement,) = SentinelJudge(Fooled(score), limit=4.0).judge(ask("a"))
    assert (judgement.score is None) == withheld


def test_everything_is_told_once_for_good_and_the_bill_is_whole(ask):
    told = []
    judged = SentinelJudge(Fooled(), every=2).judge(
        ask("a", "b", "c"), lambda place, given: told.append((place, given))
    )
    final = [(place, given) for place, given in told if given.pending_score is None]
    assert sorted(place for place, _ in final) == [0, 1, 2]
    assert all(replace(judged[place], usage=given.usage) == given for place, given in final)
    assert add_usage(*(given.usage for _, given in told)) == add_usage(*(judgement.usage for judgement in judged))
    assert add_usage(*(judgement.usage for judgement in judged)) == replace(
        BILL, prompt_tokens=500, completion_tokens=25, cost=1.25, attempts=5
    )


def test_a_judge_that_announces_nothing_is_heard_too(ask):
    counting = CountingJudge()
    counting.judge = lambda requests, on_judgement=None: [Judgement(2.0) for _ in requests]
    assert [judgement.score for judgement in SentinelJudge(counting).judge(ask("a", "b"))] == [2.0, 2.0]
    assert SentinelJudge(counting).judge([]) == []


def test_a_server_that_likes_everything_is_found_out(ask):
    judge = SentinelJudge(LanguageModelJudge(Answering(lambda content: '{"score": 9}')))
    judged = judge.judge(ask("I can do 45 days.", "Fine by me."))
    assert all(judgement.score is None and judgement.raw == '{"score": 9}' for judgement in judged)


def test_the_version_tells_probed_from_unprobed():
    judge = Fooled()
    assert len({judge.version, SentinelJudge(judge).version, SentinelJudge(judge, limit=3.0).version}) == 3


def test_costs_add_up_where_they_are_known():
    free, paid = Usage(1, 1, None, 0.1, 1), Usage(2, 2, 0.5, 0.3, 2)
    assert add_usage(paid, paid) == Usage(4, 4, 1.0, 0.3, 4)
    assert add_usage(free, paid) == Usage(3, 3, None, 0.3, 3)
    assert add_usage(Usage(), paid) == paid and add_usage() == Usage()


@pytest.mark.parametrize("setting", [{"every": 0}, {"every": 2.5}, {"limit": None}, {"limit": 0.5}, {"limit": 10.5}])
def test_settings_without_a_meaning_are_refused(setting):
    with pytest.raises(UserError, match="probes"):
        SentinelJudge(Fooled(), **setting)
