"""Scores that are dealt out anew: the same ones, by nothing but the requests, and without information."""

import numpy as np
import pytest
from judge_cases import CountingJudge

from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.shuffled import ShuffledScores

TEXTS = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg", "hhhhhhhh"]


class Lengths:
    """A part of a reward: how long the words are; nothing of silence."""

    def scores(self, requests, on_score=None):
        return [None if one.utterance == "silence" else float(len(one.utterance)) for one in requests]


@pytest.fixture
def judge(path):
    return LedgerJudge(CountingJudge(), Ledger(path))


def test_the_same_scores_are_given_to_others(ask, judge):
    honest, shuffled = judge.scores(ask(*TEXTS)), ShuffledScores(judge).scores(ask(*TEXTS))
    assert sorted(shuffled) == sorted(honest) and shuffled != honest


def test_the_requests_decide_and_not_their_order(ask):
    forward, backward = (ShuffledScores(Lengths()).scores(ask(*words)) for words in (TEXTS, TEXTS[::-1]))
    assert forward == backward[::-1]


def test_they_say_nothing_about_what_they_are_scores_of(ask):
    honest, shuffled = [], []
    for i in range(300):
        requests = ask(*(f"{i:03} {'x' * j}" for j in range(8)))
        for part, found in ((Lengths(), honest), (ShuffledScores(Lengths()), shuffled)):
            values = np.array(part.scores(requests))
            found.append(values - values.mean())
    correlation = np.corrcoef(np.concatenate(honest), np.concatenate(shuffled))[0, 1]
    assert abs(correlation) < 0.06  # 2,400 pairs: three standard errors; always another's score would give -0.14


def test_a_missing_score_is_dealt_out_like_any_other(ask):
    found = ShuffledScores(Lengths()).scores(ask("silence", *TEXTS))
    assert found.count(None) == 1 and sorted(filter(None, found)) == [len(text) for text in TEXTS]


def test_a_single_score_is_not_given(ask):
    assert ShuffledScores(Lengths()).scores(ask("alone")) == [None] and ShuffledScores(Lengths()).scores([]) == []


def test_whoever_waits_hears_of_each_score(ask):
    heard = {}
    found = ShuffledScores(Lengths()).scores(ask(*TEXTS), heard.__setitem__)
    assert [heard[place] for place in range(len(TEXTS))] == found


@pytest.mark.parametrize("known", [0, 3, 7, 8])
def test_what_the_ledger_knew_before_changes_nothing(ask, judge, known):
    judge.scores(ask(*TEXTS[:known]))
    assert ShuffledScores(judge).scores(ask(*TEXTS)) == ShuffledScores(CountedOnly()).scores(ask(*TEXTS))


class CountedOnly:
    """The same judge without a ledger."""

    def scores(self, requests, on_score=None):
        return [judgement.score for judgement in CountingJudge().judge(requests)]
