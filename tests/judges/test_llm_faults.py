"""Judging through a server that fails: every judgement is there or missing with a reason, and no score is made up."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from endpoint_judging import cases, judge_at, reply, truth
from faulty_server import MIXED, FaultyServer

from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.sentinel import SentinelJudge

pytestmark = pytest.mark.slow

COUNT, KILLED_COUNT, KILLS = 600, 400, 4


def rows(path):
    """utterance number -> score, reason, prompt and completion tokens."""
    query = "SELECT utterance, score, reason, prompt_tokens, completion_tokens FROM judgements"
    with Ledger(path) as ledger:
        found = ledger.connection.execute(query).fetchall()
    numbered = {number(utterance): rest for utterance, *rest in found}
    assert len(numbered) == len(found), "an utterance has two rows"
    return numbered


def kept(path):
    """The numbers of the utterances whose score is paid for: those that count and those that wait for their probe."""
    with Ledger(path) as ledger:
        found = ledger.connection.execute("SELECT utterance FROM judgements WHERE coalesce(score, held) IS NOT NULL")
        return {number(utterance) for (utterance,) in found}


def number(text):
    numbers = re.findall(r"for file (\d+)", text)
    return int(numbers[-1]) if numbers else None  # of a probe


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Six hundred judgements with faults in 30 % of the calls, then the same again from a server without."""
    path = tmp_path_factory.mktemp("faults") / "ledger.sqlite"
    with FaultyServer(reply, fault_rate=0.3, seed=3) as server, Ledger(path) as ledger:
        judge = LedgerJudge(judge_at(server.base_url), ledger)
        first, at_first = judge.scores(cases(COUNT)), rows(path)
        calls, billed, happened = server.calls, server.billed_tokens - server.lost_tokens, set(server.happened)
        server.fault_rate = 0.0
        second, later = judge.scores(cases(COUNT)), server.calls
        judge.scores(cases(COUNT))
        yield {"scores": (first, second), "rows": at_first, "bill": billed, "happened": happened} | {
            "calls": (calls, later, server.calls)
        }


def test_every_judgement_is_right_or_missing_with_its_reason(judged):
    assert judged["happened"] == {None, *MIXED} and judged["rows"].keys() == set(range(COUNT))
    for i, (score, reason, *_) in judged["rows"].items():
        assert score == judged["scores"][0][i]
        assert (score, reason is None) in ((truth(i), True), (None, False)), reason
    missing = sum(score is None for score in judged["scores"][0])
    assert 0 < missing < COUNT // 4


def test_the_rows_add_up_to_the_bill(judged):
    assert sum(read + written for _, _, read, written in judged["rows"].values()) == judged["bill"]


def test_only_what_is_missing_is_asked_again_and_then_nothing(judged):
    first, second = judged["scores"]
    assert second == [truth(i) for i in range(COUNT)]
    calls, later, last = judged["calls"]
    assert later - calls == first.count(None) and last == later


def test_killed_at_four_moments_the_union_is_the_run_without_a_fault(tmp_path):
    path, moments = tmp_path / "ledger.sqlite", random.Random(7)
    script = Path(__file__).with_name("endpoint_judging.py")
    with FaultyServer(reply, latency_s=0.05, fault_rate=0.1, faults=("429", "500", "reset")) as server:
        command = [sys.executable, str(script), server.base_url, str(path), str(KILLED_COUNT)]
        for _ in range(KILLS):
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            process.stdout.readline()
            until = server.calls + moments.randint(1, 60)  # after some calls, however slow the machine is
            while process.poll() is None and server.calls < until:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            stored = kept(path)
            seen = server.calls
            time.sleep(0.1)
        assert 0 < len(stored) < KILLED_COUNT, "all kills came before the work, or after it"
        assert subprocess.run(command, capture_output=True).returncode == 0
        asked_last = {number(call.body["messages"][-1]["content"]) for call in server.log[seen:]}
        probed = SentinelJudge(judge_at(server.base_url))
        LedgerJudge(probed, Ledger(path)).scores(cases(KILLED_COUNT))  # what faults left missing
    assert not asked_last & stored
    assert {i: score for i, (score, *_) in rows(path).items()} == {i: truth(i) for i in range(KILLED_COUNT)}
