"""A judge in the background: nobody waits longer than allowed, and nothing that arrives is lost or mixed up."""

import threading
import time

import pytest
import torch

from emodistill.errors import UserError
from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.request import Judgement, JudgeRequest
from emodistill.learners.async_judge import AsyncJudge, Judging
from emodistill.negotiation.scenarios import Scenario

WAIT_S = 20


def ask(*texts):
    scenario = Scenario("debt-000", "debt", focal_target=30.0, counterparty_target=130.0)
    return [JudgeRequest(scenario, (), "joy", text) for text in texts]


class Gated:
    """Scores by length. Announces `before` verdicts of its first call, then waits for its gate."""

    def __init__(self, before=0):
        self.before, self.calls = before, []
        self.entered, self.opened = threading.Event(), threading.Event()

    def scores(self, requests, on_score=None):
        first = not self.calls
        self.calls.append([request.utterance for request in requests])
        found = [float(len(request.utterance)) for request in requests]
        for place, score in enumerate(found):
            if first and place == self.before:
                self.entered.set()
                assert self.opened.wait(WAIT_S)
            on_score(place, score)
        return found


@pytest.fixture
def gated():
    judge = Gated()
    yield judge
    judge.opened.set()


def test_asking_does_not_wait_and_what_comes_meanwhile_is_asked_together(gated):
    live = AsyncJudge(gated, WAIT_S)
    first = live.ask(ask("a", "bb"))
    assert gated.entered.wait(WAIT_S)
    others = [live.ask(ask("ccc")), live.ask(ask()), live.ask(ask("dddd", "e"))]
    gated.opened.set()
    assert live.collect(first) == [1.0, 2.0]
    assert [live.collect(one) for one in others] == [[3.0], [], [4.0, 1.0]]
    assert gated.calls == [["a", "bb"], ["ccc", "dddd", "e"]]


def test_a_judge_that_scores_by_the_call_is_asked_as_it_was_asked(gated):
    gated.by_call = True
    live = AsyncJudge(gated, WAIT_S)
    asked = [live.ask(ask("a", "bb"))]
    assert gated.entered.wait(WAIT_S)
    asked += [live.ask(ask("ccc")), live.ask(ask("dddd", "e"))]
    gated.opened.set()
    assert [live.collect(one) for one in asked] == [[1.0, 2.0], [3.0], [4.0, 1.0]]
    assert gated.calls == [["a", "bb"], ["ccc"], ["dddd", "e"]]


def test_a_batch_is_there_when_its_own_scores_are():
    """It does not wait for others that the judge is asked about in the same call."""
    judge = Gated(before=2)
    live = AsyncJudge(judge, WAIT_S)
    with live._lock:  # nothing begins before all are handed over
        live._working = True
    batches = [live.ask(ask("a", "bb")), live.ask(ask("ccc"))]
    worker = threading.Thread(target=live._work)
    worker.start()
    assert judge.entered.wait(WAIT_S)
    assert live.collect(batches[0]) == [1.0, 2.0] and not batches[1].done.is_set()
    judge.opened.set()
    assert live.collect(batches[1]) == [3.0]
    worker.join(WAIT_S)


def test_a_judge_that_hangs_costs_its_time_limit_and_no_more(caplog):
    judge = Gated(before=1)
    live = AsyncJudge(judge, 0.2)
    asked = live.ask(ask("a", "bb", "ccc"))
    assert judge.entered.wait(WAIT_S)
    late = live.ask(ask("dddd"))
    began = time.monotonic()
    assert live.collect(asked) == [1.0, None, None]  # what had come by then counts
    assert live.collect(late) == [None]
    assert 0.4 <= time.monotonic() - began < 5
    assert "2 of 3 scores did not come within 0.2 s" in caplog.messages[0]
    judge.opened.set()
    assert live.scores(ask("e")) == [1.0]  # and it goes on when the judge does
    assert live.collect(asked) == [1.0, None, None]  # what was decided stays decided
    assert sum(judge.calls, []) == ["a", "bb", "ccc", "e"]  # what nobody waits for any more is not asked


def test_a_late_answer_is_in_the_ledger_when_it_is_asked_for_again(tmp_path):
    class Slow:
        name, version, asked = "slow", "1", 0
        opened = threading.Event()

        def judge(self, requests, on_judgement=None):
            self.asked += len(requests)
            assert self.opened.wait(WAIT_S)
            return [Judgement(7.0)] * len(requests)

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        judge = Slow()
        live = AsyncJudge(LedgerJudge(judge, ledger), 0.05)
        assert live.scores(ask("word")) == [None]
        judge.opened.set()
        assert AsyncJudge(LedgerJudge(judge, ledger), WAIT_S).scores(ask("word")) == [7.0]
        assert judge.asked == 1


def test_what_the_judge_raises_is_raised_where_scores_are_waited_for():
    class Broken:
        def scores(self, requests, on_score=None):
            raise UserError("the disk is full")

    live = AsyncJudge(Broken(), WAIT_S)
    for _ in range(2):
        with pytest.raises(UserError, match="the disk is full"):
            live.scores(ask("a"))


def test_many_askers_get_their_own_scores():
    judge = Gated()
    judge.opened.set()
    live, found = AsyncJudge(judge, WAIT_S), {}

    def work(number):
        for i in range(50):
            texts = ["x" * (number + 1 + j) for j in range(i % 4)]
            found[number, i] = live.scores(ask(*texts)) == [float(len(text)) for text in texts]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(found) == 200 and all(found.values())


def test_the_judge_works_on_the_gpu_of_whoever_asks(monkeypatch):
    """A device is current for a thread alone, and a new one begins with the first GPU."""
    current = threading.local()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(current, "device", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(current, "device", device))
    torch.cuda.set_device(3)

    class Placed:
        def scores(self, requests, on_score=None):
            return [float(torch.cuda.current_device()) for _ in requests]

    assert AsyncJudge(Placed(), WAIT_S).scores(ask("x", "y")) == [3.0, 3.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"look_ahead": -1},
        {"look_ahead": None},
        {"look_ahead": 1.5},
        {"timeout_s": 0},
        {"timeout_s": -1.0},
        {"timeout_s": "long"},
        {"min_group": 1},
        {"min_group": None},
        {"max_unscored_batches": 0},
        {"max_unscored_batches": 1.5},
    ],
)
def test_settings_without_a_sense_are_refused_by_name(wrong):
    right = {"look_ahead": 0, "timeout_s": None, "min_group": 2, "max_unscored_batches": None}
    Judging(**right)
    with pytest.raises(UserError, match=f"^learner.judging.{next(iter(wrong))}="):
        Judging(**(right | wrong))
