"""Threads share a ledger: each has its own connection, none waits for ever, and no judgement is paid for twice."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from judge_cases import CountingJudge

from emodistill.judges.ledger import InFlightKeys, Ledger, LedgerJudge, in_flight_keys
from emodistill.judges.request import Judgement, announced

WAIT_S = 20


class Gate(CountingJudge):
    """Says that it was asked, and answers when the gate is opened."""

    def __init__(self, breaks=False):
        super().__init__()
        self.entered, self.opened, self.breaks = threading.Event(), threading.Event(), breaks

    def judge(self, requests, on_judgement=None):
        self.asked += [request.utterance for request in requests]
        self.entered.set()
        assert self.opened.wait(WAIT_S)
        if self.breaks:
            raise ConnectionError("gone")
        return announced([self._one(request.utterance) for request in requests], on_judgement)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.parametrize("text", ["word", "silence"])
def test_a_thread_waits_for_what_another_one_asks_and_does_not_pay_again(ask, path, pool, text):
    """Two objects on one file, as a training run has them. A missing answer that just came is an answer too."""
    with Ledger(path) as mine, Ledger(path) as theirs:
        gate, judge, told = Gate(), CountingJudge(), []
        first = pool.submit(LedgerJudge(gate, mine).scores, ask(text))
        assert gate.entered.wait(WAIT_S)
        second = pool.submit(LedgerJudge(judge, theirs).scores, ask("other", text), lambda *pair: told.append(pair))
        deadline = time.monotonic() + WAIT_S
        while not told and time.monotonic() < deadline:
            time.sleep(0.001)
        assert told == [(0, 6.0)]  # what nobody else is asking for is asked meanwhile
        assert not second.done()
        gate.opened.set()
        assert second.result(WAIT_S)[1:] == first.result(WAIT_S)
    assert judge.asked == ["other"] and gate.asked == [text]
    assert sorted(place for place, _ in told) == [0, 1]


def test_where_the_other_thread_breaks_down_the_one_that_waited_asks_itself(ask, path, pool):
    with Ledger(path) as ledger:
        gate, judge = Gate(breaks=True), CountingJudge()
        first = pool.submit(LedgerJudge(gate, ledger).scores, ask("word"))
        assert gate.entered.wait(WAIT_S)
        second = pool.submit(LedgerJudge(judge, ledger).scores, ask("word"))
        gate.opened.set()
        assert second.result(WAIT_S) == [5.0] and judge.asked == ["word"]
        with pytest.raises(ConnectionError):
            first.result(WAIT_S)


def test_many_threads_ask_each_question_once(ask, path, pool):
    judge = CountingJudge()
    requests = ask(*(f"text {i}" * (i % 7) for i in range(200)))
    with Ledger(path) as ledger:
        keeper = LedgerJudge(judge, ledger, batch_size=3)
        parts = [requests[i : i + 100] + requests[: 10 * i] for i in range(0, 100, 13)]
        found = list(pool.map(keeper.scores, parts))
        assert found == [[1.0 + len(request.utterance) % 9 for request in part] for part in parts]
    assert len(judge.asked) == len(set(judge.asked))


def test_an_answer_that_comes_between_look_and_claim_is_not_asked_for_again(ask, path):
    class Beaten(Ledger):
        looks = 0

        def get(self, keys):
            found, self.looks = super().get(keys), self.looks + 1
            if self.looks == 1:
                with Ledger(self.path) as theirs:
                    LedgerJudge(CountingJudge(), theirs).scores(ask("word", "silence"))
            return found

    judge = CountingJudge()
    with Beaten(path) as ledger:
        assert LedgerJudge(judge, ledger).scores(ask("word", "silence", "other")) == [5.0, None, 6.0]
    assert judge.asked == ["other"]


def test_each_thread_has_its_own_connection_and_closing_leaves_those_in_use_alone(ask, path, pool):
    with Ledger(path) as ledger:
        mine, theirs = ledger.connection, pool.submit(lambda: ledger.connection).result()
        assert mine is ledger.connection is not theirs
    assert theirs.execute("SELECT count(*) FROM judgements").fetchone() == (0,)


def test_a_thread_closes_what_ended_threads_left_open(ask, path):
    with Ledger(path) as ledger:
        for text in "abcdef":
            with ThreadPoolExecutor(1) as one:
                assert one.submit(LedgerJudge(CountingJudge(), ledger).scores, ask(text)).result() == [2.0]
        assert len(ledger._connections) <= 2


def test_a_judge_may_ask_another_one_in_the_ledger_that_it_is_asked_by(ask, path):
    with Ledger(path) as ledger:
        inner, outer = CountingJudge("inner"), CountingJudge("outer")
        outer._one = lambda text: Judgement(LedgerJudge(inner, ledger).scores(ask(text))[0])
        assert LedgerJudge(outer, ledger).scores(ask("word")) == [5.0]


def test_keys_in_flight_belong_to_the_file_whatever_its_name(tmp_path):
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "ledger.sqlite")
    names = [tmp_path / "ledger.sqlite", tmp_path / "link.sqlite", tmp_path / "x" / ".." / "ledger.sqlite"]
    assert len({id(in_flight_keys(name)) for name in names}) == 1
    assert in_flight_keys(tmp_path / "other.sqlite") is not in_flight_keys(names[0])


def test_what_a_thread_holds_no_other_one_takes_until_it_lets_go(pool):
    keys = InFlightKeys()
    assert keys.take(["a", "b"]) == ["a", "b"]
    assert pool.submit(keys.take, ["b", "c"]).result() == ["c"]
    waiting = pool.submit(keys.wait, ["a", "b"])
    keys.release(["b"])
    assert not waiting.done()
    keys.release(["a"])
    waiting.result(WAIT_S)
