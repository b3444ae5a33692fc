"""The ledger: nothing is asked twice, nothing is made up, and whatever may change a judgement is in its key."""

import sqlite3
from dataclasses import replace

import pytest
from judge_cases import CountingJudge

from emodistill.judges.ledger import Ledger, LedgerJudge, judgement_key
from emodistill.judges.request import Judgement, JudgeRequest


def test_what_is_stored_is_not_asked_again_even_by_another_process_later(ask, path):
    with Ledger(path) as ledger:
        first = LedgerJudge(CountingJudge(), ledger).scores(ask("one", "three"))
    judge = CountingJudge()
    with Ledger(path) as ledger:
        assert LedgerJudge(judge, ledger).scores(ask("three", "four", "one")) == [first[1], 5.0, first[0]]
    assert judge.asked == ["four"]


def test_duplicates_in_one_call_are_asked_once_and_answered_each(ask, path):
    judge = CountingJudge()
    with Ledger(path) as ledger:
        assert LedgerJudge(judge, ledger).scores(ask("aa", "b", "aa", "aa")) == [3.0, 2.0, 3.0, 3.0]
        assert (judge.asked, ledger.count()) == (["aa", "b"], 2)


def test_a_missing_score_is_stored_with_its_reason_and_never_becomes_a_number(ask, path):
    with Ledger(path) as ledger:
        judge = CountingJudge()
        (request,) = ask("silence")
        assert LedgerJudge(judge, ledger).scores([request, request]) == [None, None]
        key = judgement_key(judge, request)
        (stored,) = ledger.get([key]).values()
        assert (stored.score, stored.reason) == (None, "no answer")


def test_a_missing_score_is_asked_again_and_a_present_one_is_final(ask, path):
    judge = CountingJudge()
    with Ledger(path) as ledger:
        keeper = LedgerJudge(judge, ledger)
        judge.down = True
        assert keeper.scores(ask("word")) == [None]
        judge.down = False
        assert keeper.scores(ask("word")) == [5.0]
        judge.down = True
        assert keeper.scores(ask("word")) == [5.0]
    assert judge.asked == ["word", "word"]


@pytest.mark.parametrize("score", [0.99, 10.01, 0.0, float("nan"), float("inf"), -3.0])
def test_a_score_that_is_none_is_missing_with_a_reason(ask, path, score):
    judge = CountingJudge()
    judge._one = lambda text: Judgement(score)
    with Ledger(path) as ledger:
        assert LedgerJudge(judge, ledger).scores(ask("x")) == [None]
        (stored,) = ledger.get([judgement_key(judge, ask("x")[0])]).values()
    assert "not a score from 1 to 10" in stored.reason


def test_a_missing_score_without_a_reason_gets_one(ask, path):
    judge = CountingJudge()
    judge._one = lambda text: Judgement(None)
    with Ledger(path) as ledger:
        LedgerJudge(judge, ledger).scores(ask("x"))
        assert ledger.get([judgement_key(judge, ask("x")[0])]).popitem()[1].reason


def test_scores_are_on_disk_before_they_are_returned_and_whatever_becomes_of_the_others(ask, path):
    judge = CountingJudge()

    def fails_late(requests, on_judgement):
        for place, request in enumerate(requests[:2]):
            on_judgement(place, judge._one(request.utterance))
        raise ConnectionError("gone")

    judge.judge = fails_late
    with Ledger(path) as ledger:
        with pytest.raises(ConnectionError):
            LedgerJudge(judge, ledger).scores(ask("a", "bb", "ccc"))
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT count(*) FROM judgements").fetchone() == (2,)
        other.close()


def test_the_row_tells_what_it_is_about(ask, path):
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("word"))
        columns = "judge, judge_version, domain, scenario_id, emotion, utterance, score, latency_s >= 0"
        row = ledger.connection.execute(f"SELECT {columns} FROM judgements").fetchone()
    assert row == ("counting", "1", "debt", "debt-000", "anger", "word", 5.0, 1)


def test_everything_a_judgement_may_depend_on_is_in_the_key(scenario, history):
    request = JudgeRequest(scenario, history, "anger", "word")
    last = history[-1]
    others = [
        replace(request, utterance="word "),
        replace(request, emotion="joy"),
        replace(request, emotion=None),
        replace(request, history=history[:-1]),
        replace(request, history=(*history[:-1], replace(last, text="Other words."))),
        replace(request, history=(*history[:-1], replace(last, offer=100.0))),
        replace(request, history=(*history[:-1], replace(last, act="walk_away"))),
        replace(request, scenario=replace(scenario, focal_target=31.0)),
        replace(request, scenario=replace(scenario, counterparty_target=131.0)),
        replace(request, scenario=replace(scenario, domain="hospital")),
        replace(request, scenario=replace(scenario, context={"Cash": "none"})),
    ]
    keys = {judgement_key(CountingJudge(), one) for one in [request, *others]}
    keys |= {judgement_key(CountingJudge(name="x"), request), judgement_key(CountingJudge(version="2"), request)}
    assert len(keys) == len(others) + 3


def test_how_the_emotion_of_a_past_turn_was_drawn_is_not_in_the_key(scenario, history):
    drawn = tuple(replace(turn, emotion="fear", emotion_prob=0.1, offer_appended=True) for turn in history)
    judge = CountingJudge()
    plain, other = (JudgeRequest(scenario, turns, "anger", "word") for turns in (history, drawn))
    assert judgement_key(judge, plain) == judgement_key(judge, other)


def test_the_key_depends_on_the_rubric_of_its_domain(scenario, history, monkeypatch):
    request = JudgeRequest(scenario, history, "anger", "word")
    before = judgement_key(CountingJudge(), request)
    monkeypatch.setitem(scenario.rules.rubric, "empty_threats", ["or else"])
    assert judgement_key(CountingJudge(), request) != before


def test_odd_texts_are_stored_like_any_other(ask, path):
    texts = ["", "\x00 nul", "quote ' ; DROP TABLE judgements; --", "\ud800 half a pair", "\U0001f600", "x" * 100_000]
    with Ledger(path) as ledger:
        scores = LedgerJudge(CountingJudge(), ledger).scores(ask(*texts))
        assert ledger.count() == len(texts) and None not in scores
