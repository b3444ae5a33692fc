"""Many judgements in parts: the same as one after the other, each asked once, whoever is killed."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from parts_judging import COUNT, OFFENDING, REQUESTS, DiaryJudge

from emodistill.errors import UserError
from emodistill.execution.local import LocalExecutor
from emodistill.judges.ledger import PART, Ledger, LedgerJudge
from emodistill.judges.sentinel import SentinelJudge

CONTENT = "SELECT utterance, score, reason, raw, attempts FROM judgements ORDER BY utterance"
KILLS = 4


def rows(path, query=CONTENT):
    with Ledger(path) as ledger:
        return ledger.connection.execute(query).fetchall()


def read(diary, what):
    """[number, process] of each such line."""
    lines = diary.read_text().splitlines() if diary.exists() else []
    return [line.split()[1:] for line in lines if line.startswith(f"{what} ") and len(line.split()) == 3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The ledger of one process that knows no parts, and what it gave."""
    folder = tmp_path_factory.mktemp("whole")
    with Ledger(folder / "ledger.sqlite") as ledger:
        given = LedgerJudge(DiaryJudge(folder / "diary"), ledger).scores(REQUESTS)
    return rows(folder / "ledger.sqlite"), given


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_give_what_the_whole_gives(whole, tmp_path, workers):
    diary, told = tmp_path / "diary", {}
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        judge = LedgerJudge(DiaryJudge(diary), ledger, executor=LocalExecutor(workers=workers))
        given = judge.scores([*REQUESTS, REQUESTS[0]], lambda place, score: told.update({place: score}))
        again = judge.scores(REQUESTS[:9])
    stored = [row[:4] for row in rows(tmp_path / "ledger.sqlite")]
    assert (stored, given[:COUNT]) == ([row[:4] for row in whole[0]], whole[1])
    assert told == dict(enumerate(given)) and again == given[:9]
    asked = Counter(number for number, _ in read(diary, "asked"))
    assert asked.pop("8") == 2 and set(asked.values()) == {
        1
    }  # what brought no score is asked for again, in the next call
    assert len({process for _, process in read(diary, "asked")}) == workers + (workers > 1)  # and `again` is done here


def test_few_judgements_and_those_that_hang_together_are_not_divided(tmp_path):
    diary = tmp_path / "diary"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        LedgerJudge(DiaryJudge(diary), ledger, executor=LocalExecutor(workers=2)).scores(REQUESTS[: 2 * PART - 1])
    assert len({process for _, process in read(diary, "asked")}) == 1
    judge = DiaryJudge(diary)
    assert SentinelJudge(judge, every=32).by_itself == "server" and SentinelJudge(judge, every=33).by_itself is None


def test_a_refusal_ends_the_judging_with_its_sentence(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger, pytest.raises(UserError, match=f"^{OFFENDING}$"):
        judge = DiaryJudge(tmp_path / "diary", refused=True)
        LedgerJudge(judge, ledger, executor=LocalExecutor(workers=2)).scores(REQUESTS)


@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_whoever_is_killed_nothing_is_judged_or_paid_for_twice(whole, tmp_path, victim):
    path, diary, moments = tmp_path / "ledger.sqlite", tmp_path / "diary", random.Random(7)
    kills = 0
    while True:
        running = start(path, diary)
        if kills < KILLS:
            until = len(read(diary, "told")) + moments.randint(1, 120)
            wait_until(lambda: len(read(diary, "told")) >= until or running.poll() is not None)  # noqa: B023  # now
            targets = [running.pid] if victim == "driver" else workers_of(running.pid)
            for target in targets[:1]:
                subprocess.run(["kill", "-KILL", str(target)], check=False)
                kills += 1
        if running.wait(120) == 0:
            break
        assert running.returncode == -signal.SIGKILL and victim == "driver"
    assert kills >= (KILLS if victim == "driver" else 1)
    told, asked = read(diary, "told"), read(diary, "asked")
    scored = [row[:4] for row in rows(path)]
    assert scored == [row[:4] for row in whole[0]]
    again = Counter(number for number, _ in asked)
    unscored = {str(number) for number in range(8, COUNT, 9)}  # each run asks for these once more, as it should
    twice = sum(count - 1 for number, count in again.items() if number not in unscored)
    assert twice <= 2 * kills and len(told) >= COUNT  # a call under way for each worker that went
    paid = {text: attempts for text, _, _, _, attempts in rows(path)}
    assert all(attempts == 1 for text, attempts in paid.items() if text.split()[-1].rstrip(".") not in unscored)


def start(path, diary):
    return subprocess.Popen([sys.executable, Path(__file__).with_name("parts_judging.py"), str(path), str(diary)])


def workers_of(process):
    """Its workers; the first child is the tracker of Python's own resources."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split() if process else []
    return [one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
