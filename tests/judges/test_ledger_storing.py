"""Verdicts on their way into the file: what was paid for is there before the next one, and everybody is told once."""

import sqlite3
import threading
from contextlib import closing
from dataclasses import asdict

import pytest
from judge_cases import CountingJudge

from emodistill.judges import ledger as ledger_module
from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.request import Judgement
from emodistill.language_models.completion import Usage

PAID = Usage(prompt_tokens=100, completion_tokens=3, cost=0.5, latency_s=0.2, attempts=1)


class Announcing(CountingJudge):
    """Announces one verdict after the other, and counts how many the file has after each."""

    def __init__(self, path, usage=PAID, fails_at=None):
        super().__init__()
        self.path, self.usage, self.fails_at, self.stored = path, usage, fails_at, []

    def judge(self, requests, on_judgement=None):
        found = []
        for place in range(len(requests)):
            if place == self.fails_at:
                raise ConnectionError("gone")
            found.append(Judgement(5.0, usage=self.usage))
            on_judgement(place, found[-1])
            with closing(sqlite3.connect(self.path)) as file:
                self.stored.append(file.execute("SELECT count(*) FROM judgements").fetchone()[0])
        return found


def test_what_was_paid_for_is_in_the_file_before_the_next_verdict(ask, path):
    with Ledger(path) as ledger:
        judge = Announcing(path)
        LedgerJudge(judge, ledger).scores(ask("a", "b", "c"))
    assert judge.stored == [1, 2, 3]


def test_free_verdicts_are_stored_in_batches(ask, path):
    with Ledger(path) as ledger:
        judge = Announcing(path, Usage())
        LedgerJudge(judge, ledger, batch_size=3).scores(ask(*"abcde"))
        assert judge.stored == [0, 0, 3, 3, 3] and ledger.count() == 5


def test_a_free_verdict_does_not_wait_for_ever(ask, path, monkeypatch):
    monkeypatch.setattr(ledger_module, "_PAUSE_S", 0.0)
    with Ledger(path) as ledger:
        judge = Announcing(path, Usage())
        LedgerJudge(judge, ledger).scores(ask(*"abc"))
    assert judge.stored == [1, 2, 3]


@pytest.mark.parametrize("usage", [PAID, Usage()])
def test_what_was_told_before_a_judge_breaks_down_is_kept(ask, path, usage):
    with Ledger(path) as ledger:
        with pytest.raises(ConnectionError):
            LedgerJudge(Announcing(path, usage, fails_at=2), ledger).scores(ask(*"abc"))
        judge = CountingJudge()
        assert LedgerJudge(judge, ledger).scores(ask(*"abc")) == [5.0, 5.0, 2.0]
        assert judge.asked == ["c"]


def test_everybody_is_told_once_of_what_is_stored_new_missing_and_asked_twice(ask, path):
    told = []
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("stored", "silence"))
        keeper = LedgerJudge(CountingJudge(), ledger)
        requests = ask("new", "stored", "silence", "new", "stored")
        scores = keeper.scores(requests, lambda *pair: told.append((*pair, threading.get_ident())))
    assert sorted(told) == [(place, score, threading.get_ident()) for place, score in enumerate(scores)]
    assert scores == [4.0, 7.0, None, 4.0, 7.0]


def test_a_judge_that_announces_nothing_and_one_that_announces_twice_are_understood(ask, path):
    quiet, stammering = CountingJudge("quiet"), CountingJudge("stammering")
    judge = CountingJudge().judge
    quiet.judge = lambda requests, on_judgement: judge(requests)

    def twice(requests, on_judgement):
        on_judgement(0, Judgement(2.0))
        on_judgement(0, Judgement(3.0))
        return judge(requests, on_judgement)

    stammering.judge = twice
    with Ledger(path) as ledger:
        assert LedgerJudge(quiet, ledger).scores(ask("aa", "bbb")) == [3.0, 4.0]
        assert LedgerJudge(stammering, ledger).scores(ask("aa", "bbb")) == [2.0, 4.0]
        assert ledger.count() == 4


def test_a_judge_that_answers_too_little_is_a_bug_and_not_a_missing_score(ask, path):
    short = CountingJudge()
    judge = short.judge
    short.judge = lambda requests, on_judgement: judge(requests[:1])
    with Ledger(path) as ledger, pytest.raises(ValueError, match="zip"):
        LedgerJudge(short, ledger).scores(ask("aa", "bbb"))


def test_offline_asks_nobody_and_writes_nothing(ask, path):
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("word", "silence"))
        judge, told = CountingJudge(), []
        found = LedgerJudge(judge, ledger, offline=True).judgements(
            ask("word", "silence", "new"), lambda place, given: told.append((place, given.score))
        )
        assert [one.score for one in found] == [5.0, None, None] and judge.asked == []
        assert found[1].reason == "no answer" and "ledger.sqlite has no judgement of it" in found[2].reason
        assert sorted(told) == [(0, 5.0), (1, None), (2, None)] and ledger.count() == 2


def test_missing_judgements_are_spoken_of(ask, path, caplog):
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("word", "silence", "other"))
    assert caplog.messages == ["1 of 3 judgements are missing; the first: no answer"]


def test_the_parts_of_a_score_are_stored_and_given_back(judge, ask, path):
    requests = ask("I am furious. I can move to 45 days, so please confirm it.", "Well.")
    with Ledger(path) as ledger:
        first = LedgerJudge(judge, ledger).judgements(requests)
        told = {}
        again = LedgerJudge(judge, ledger, offline=True).judgements(requests, told.__setitem__)
    assert [one.parts for one in first] == [one.parts for one in again] == [told[i].parts for i in range(2)]
    assert set(first[0].parts) == {"emotion", "progress", "firmness", "freshness"}
    weights = asdict(judge.weights)
    mean = sum(weights[name] * share for name, share in first[0].parts.items())
    assert first[0].score == pytest.approx(1 + 9 * mean, abs=0.01)
