"""Scores that are dealt out anew: the same ones, by nothing but the requests, and without information."""

import numpy as np
from judge_cases import CountingJudge

from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.shuffled import ShuffledJudge, ShuffledScorer

TEXTS = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg", "hhhhhhhh"]


def scores(judge, requests):
    return [judgement.score for judgement in judge.judge(requests)]


def test_the_same_scores_are_given_to_others(ask):
    honest, shuffled = scores(CountingJudge(), ask(*TEXTS)), scores(ShuffledJudge(CountingJudge()), ask(*TEXTS))
    assert sorted(shuffled) == sorted(honest) and shuffled != honest


def test_the_requests_decide_and_not_their_order(ask):
    judge = ShuffledJudge(CountingJudge())
    forward, backward = scores(judge, ask(*TEXTS)), scores(judge, ask(*reversed(TEXTS)))
    assert forward == backward[::-1] == scores(ShuffledJudge(CountingJudge()), ask(*TEXTS))


def test_they_say_nothing_about_what_they_are_scores_of(ask):
    honest, shuffled = [], []
    for i in range(300):
        requests = ask(*(f"{i} {'x' * j}" for j in range(8)))
        for given, found in ((CountingJudge(), honest), (ShuffledJudge(CountingJudge()), shuffled)):
            values = np.array(scores(given, requests))
            found.append(values - values.mean())
    correlation = np.corrcoef(np.concatenate(honest), np.concatenate(shuffled))[0, 1]
    assert abs(correlation) < 0.06  # 2,400 pairs: three standard errors; always another's score would give -0.14


def test_a_missing_score_is_dealt_out_like_any_other(ask):
    judgements = ShuffledJudge(CountingJudge()).judge(ask("silence", *TEXTS))
    missing = [judgement for judgement in judgements if judgement.score is None]
    assert len(missing) == 1 and missing[0].reason == "no answer"


def test_a_single_score_is_not_given(ask, path):
    judge = ShuffledJudge(CountingJudge())
    assert scores(judge, ask("alone")) == [None] and scores(judge, []) == []
    assert LedgerJudge(judge, Ledger(path)).scores(ask("alone", "together")) != [None, None]


def test_its_judgements_are_its_own_in_the_ledger(ask, path):
    ledger = Ledger(path)
    judge = CountingJudge()
    honest = LedgerJudge(judge, ledger).scores(ask(*TEXTS))
    shuffled = LedgerJudge(ShuffledJudge(judge), ledger).scores(ask(*TEXTS))
    assert honest != shuffled == LedgerJudge(ShuffledJudge(judge), ledger).scores(ask(*TEXTS))
    other = ShuffledJudge(CountingJudge(version="2"))
    assert (other.name, other.version) != (ShuffledJudge(judge).name, ShuffledJudge(judge).version)


class Lengths:
    """A part of a reward: how long the words are; nothing of silence."""

    def scores(self, requests, on_score=None):
        return [None if one.utterance == "silence" else float(len(one.utterance)) for one in requests]


def test_a_part_of_the_reward_is_shuffled_the_same_way(ask):
    part, requests = ShuffledScorer(Lengths()), ask("silence", *TEXTS)
    found = part.scores(requests)
    assert sorted(map(str, found)) == sorted(map(str, Lengths().scores(requests))) and found != Lengths().scores(requests)
    assert part.scores(requests[::-1]) == found[::-1]
    assert part.scores(ask("alone")) == [None]
    kept = [
        np.mean([given == own for given, own in zip(part.scores(these), Lengths().scores(these), strict=True)])
        for i in range(300)
        if (these := ask(*(f"{i:03} {'x' * j}" for j in range(8))))
    ]
    assert abs(np.mean(kept) - 1 / 8) < 0.03  # as often its own as any other's: three standard errors
