"""A judging process that is killed loses what was under way and nothing else, and never pays twice."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from killable_judging import COUNT, IN_FLIGHT, LATE, REQUESTS, USAGE, SlowJudge, judge_with, verdict

from emodistill.judges.ledger import Ledger, LedgerJudge, judgement_key

pytestmark = pytest.mark.slow

KILLS = 10
CONTENT = "SELECT utterance, score, reason, raw FROM judgements"


def start(path, diary, *every):
    script = Path(__file__).with_name("killable_judging.py")
    return subprocess.Popen([sys.executable, str(script), *map(str, (path, diary, *every))], stdout=subprocess.PIPE)


def length(diary):
    return len(diary.read_text().splitlines()) if diary.exists() else 0


def kill(process, moments, diary):
    """Some at once, before the ledger is there or is open; most after some judgements, however slow the machine is."""
    if moments.random() < 0.2:
        time.sleep(moments.uniform(0.0, 0.2))
    else:
        process.stdout.readline()
        until = length(diary) + moments.randint(1, 60)
        while process.poll() is None and length(diary) < until:
            time.sleep(moments.uniform(0.0, 0.004))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def read(diary, what, since=0):
    lines = diary.read_text().splitlines()[since:] if diary.exists() else []
    return [line.split("\t")[1] for line in lines if line.startswith(f"{what}\t")]


def rows(path, query=CONTENT):
    with Ledger(path) as ledger:
        return ledger.connection.execute(query).fetchall()


@pytest.mark.parametrize("every", [(), (32,)], ids=["no probes", "late probes"])
def test_killed_at_ten_moments_and_continued_it_is_the_run_without_a_fault(tmp_path, every):
    path, diary, moments = tmp_path / "ledger.sqlite", tmp_path / "diary", random.Random(20)
    known, lines, pending = set(), 0, 0
    for _ in range(KILLS):
        kill(start(path, diary, *every), moments, diary)
        again = known & set(read(diary, "asked", lines))
        assert not again, "a stored score was asked for again"
        stored = rows(path, "SELECT utterance, coalesce(score, held) FROM judgements")
        assert set(read(diary, "told")) <= {text for text, _ in stored}, "what was paid for is lost"
        known = {text for text, score in stored if score is not None}
        pending += len(rows(path, "SELECT key FROM judgements WHERE held IS NOT NULL"))
        lines = length(diary)
    assert 0 < len(known) < COUNT * 8 // 9, "all kills came before the work, or after it"
    assert (pending > LATE) == bool(every), "no kill came while scores were pending"

    last = start(path, diary, *every)
    assert last.stdout.read() == b"ready\n" and last.wait() == 0
    last.stdout.close()
    with Ledger(tmp_path / "whole.sqlite") as ledger:
        LedgerJudge(judge_with(tmp_path / "other diary", *every), ledger).scores(REQUESTS)
    assert sorted(rows(path)) == sorted(rows(tmp_path / "whole.sqlite"))
    asked, told = Counter(read(diary, "asked")), Counter(read(diary, "told"))
    probes_asked, probes_told = len(read(diary, "asked probe")), len(read(diary, "told probe"))
    lost = asked.total() - told.total()
    assert lost <= KILLS * (IN_FLIGHT + 1)  # in flight, or stored and not yet written into the diary
    stored_tries = sum(attempts for (attempts,) in rows(path, "SELECT attempts FROM judgements"))
    assert told.total() + probes_told - KILLS <= stored_tries <= asked.total() + probes_asked
    (bill,) = rows(path, "SELECT sum(prompt_tokens), sum(completion_tokens), sum(cost) FROM judgements")
    assert bill == (100 * stored_tries, 7 * stored_tries, 0.25 * stored_tries)


def test_a_score_read_back_has_its_raw_reply_and_its_usage(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        judge = SlowJudge(tmp_path / "diary")
        LedgerJudge(judge, ledger).scores(REQUESTS[7:9])
        keys = [judgement_key(judge, request) for request in REQUESTS[7:9]]
        assert ledger.get(keys) == dict(zip(keys, [verdict(one.utterance) for one in REQUESTS[7:9]], strict=True))
        again = LedgerJudge(judge, ledger).judgements(REQUESTS[7:9])
    assert again[0].usage == USAGE and again[1].usage.attempts == 2 and again[1].usage.cost == pytest.approx(0.5)
