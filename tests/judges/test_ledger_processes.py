"""Processes share a ledger: one alone asks for a judgement, the others wait for its score, or take its place."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from parts_judging import REQUESTS, DiaryJudge

from emodistill.errors import UserError
from emodistill.files import held, is_held
from emodistill.judges.ledger import Ledger, LedgerJudge

SCRIPT = """
import sys
from parts_judging import REQUESTS, DiaryJudge
from emodistill.judges.ledger import Ledger, LedgerJudge

path, diary, first, last = sys.argv[1:]
with Ledger(path) as ledger:
    judge = LedgerJudge(DiaryJudge(diary), ledger)
    print("ready", flush=True)
    sys.stdin.readline()
    print(judge.scores(REQUESTS[int(first) : int(last)]), flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process that judges some of the utterances once it is told to; `go` tells it."""
    script, here = tmp_path / "judging.py", Path(__file__).parent
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    started = []

    def one(first, last):
        command = [sys.executable, script, tmp_path / "ledger.sqlite", tmp_path / "diary", str(first), str(last)]
        started.append(subprocess.Popen(command, **pipes))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def asked(folder):
    lines = (folder / "diary").read_text().splitlines() if (folder / "diary").exists() else []
    return [line.split()[1:] for line in lines if line.startswith("asked")]


def left_over(folder):
    with Ledger(folder / "ledger.sqlite") as ledger:
        claims = ledger.connection.execute("SELECT count(*) FROM claims").fetchone()[0]
    return claims + len(list(folder.glob("*-asking-*")))


def truth(first, last):
    return [None if i % 9 == 8 else 1.0 + i % 10 for i in range(first, last)]


def test_what_two_processes_want_at_once_one_asks_for(start, tmp_path):
    both = [start(0, 150), start(50, 200)]
    for process in both:
        go(process)
    assert [process.stdout.readline() for process in both] == [f"{truth(0, 150)}\n", f"{truth(50, 200)}\n"]
    times = Counter(number for number, _ in asked(tmp_path))
    assert sorted(times, key=int) == [str(i) for i in range(200)]
    assert {times[str(i)] for i in range(200) if i % 9 != 8} == {1}
    assert left_over(tmp_path) == 0


def test_whoever_waits_for_a_process_that_is_killed_asks_in_its_place(start, tmp_path):
    first, second = start(0, 150), start(50, 200)
    go(first)
    while len(asked(tmp_path)) < 60:
        assert first.poll() is None
    go(second)
    while not any(int(number) >= 150 for number, _ in asked(tmp_path)):
        assert second.poll() is None
    first.kill()
    assert second.stdout.readline() == f"{truth(50, 200)}\n"
    times = Counter(number for number, _ in asked(tmp_path) if int(number) % 9 != 8)
    assert sum(times.values()) - len(times) <= 1  # the call under way
    assert left_over(tmp_path) == 0


def test_a_claim_left_by_the_dead_is_nobodys(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with ledger.claimed(["a"]) as mine:
            assert mine == ["a"]
        ledger.connection.execute("INSERT INTO claims VALUES ('a', 'somebody')")
        (tmp_path / "ledger.sqlite-asking-somebody").touch()  # locked by nobody
        with ledger.claimed(["a", "b"]) as mine:
            assert mine == ["a", "b"]
    assert left_over(tmp_path) == 0


def test_a_held_file_is_seen_by_others_until_it_is_let_go(tmp_path):
    look = (
        f"from emodistill.files import is_held; from pathlib import Path; print(is_held(Path({str(tmp_path / 'x')!r})))"
    )
    see = lambda: subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout  # noqa: E731
    with held(tmp_path / "x", "choose another"):
        assert see() == "True\n"
    assert see() == "False\n" and not (tmp_path / "x").exists()
    (tmp_path / "x").touch()
    assert not is_held(tmp_path / "x")
    with (
        pytest.raises(UserError, match=r"missing/x cannot be locked .*; choose another$"),
        held(tmp_path / "missing" / "x", "choose another"),
    ):
        pass


def test_the_claims_of_a_judging_that_fails_are_let_go(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(UserError, match="refuses the key"):
            LedgerJudge(DiaryJudge(tmp_path / "diary", refused=True), ledger).scores(REQUESTS[:9])
        assert left_over(tmp_path) == 0
