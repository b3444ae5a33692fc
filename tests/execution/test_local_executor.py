"""The local executor: workers leave the same files as one process, lose what they were at, and end with the driver."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_pieces import marks, piece

from emodistill.errors import UserError
from emodistill.execution import local, machine
from emodistill.execution.local import LocalExecutor
from emodistill.execution.pieces import Needs


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_two_workers_leave_what_one_process_leaves_and_open_a_kit_once_each(tmp_path):
    def pieces(folder):
        return [piece(folder, f"{kit}{number}", kit=kit, does=0.05) for kit in "xy" for number in range(5)]

    LocalExecutor(workers=1).run("test", pieces(tmp_path / "one"))
    LocalExecutor(workers=2).run("test", pieces(tmp_path / "two"))
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "two")) == 10
    own = {process for _, process in marks(tmp_path / "two", "did")}
    assert len(own) == 2 and str(os.getpid()) not in own
    assert {process for _, process in marks(tmp_path / "one", "did")} == {str(os.getpid())}
    opened = marks(tmp_path / "two", "opened")
    assert len({tuple(one) for one in opened}) == len(opened) <= 3  # one kit a worker, and its last piece may be shared


def test_a_piece_comes_after_those_that_it_takes_something_from(tmp_path):
    pieces = [piece(tmp_path, "a", does=0.2), piece(tmp_path, "b", after=["a"]), piece(tmp_path, "c", after=["b"])]
    LocalExecutor(workers=2).run("test", [*pieces, piece(tmp_path, "d")])
    order = [name for name, _ in marks(tmp_path, "did")]
    assert [name for name in order if name != "d"] == ["a", "b", "c"] and len(order) == 4


def test_a_mistake_of_the_user_ends_everything_at_once_with_its_sentence(tmp_path):
    pieces = [piece(tmp_path, "wrong", does="mistake"), *(piece(tmp_path, f"{i}", does=5.0) for i in range(4))]
    began = time.monotonic()
    with pytest.raises(UserError, match="^there is no such thing; choose another$"):
        LocalExecutor(workers=2).run("test", pieces)
    assert len(marks(tmp_path, "did")) <= 2 and not contents(tmp_path) and time.monotonic() - began < 60


def test_a_bug_keeps_its_traceback(tmp_path):
    with pytest.raises(RuntimeError, match=r"the piece wrong failed in its worker:\n(.*\n)+.*small_pieces.py"):
        LocalExecutor(workers=2).run("test", [piece(tmp_path, "wrong", does="bug"), piece(tmp_path, "other")])


def test_a_lost_worker_costs_its_piece_alone_and_that_is_done_again(tmp_path):
    pieces = [piece(tmp_path, f"{i}", does="die once" if i in (1, 4) else "") for i in range(6)]
    LocalExecutor(workers=2).run("test", pieces)
    did = [name for name, _ in marks(tmp_path, "did")]
    assert len(contents(tmp_path)) == 6 and sorted(did) == sorted([*"012345", "1", "4"])


def test_a_piece_that_always_loses_its_worker_is_given_up(tmp_path):
    with pytest.raises(UserError, match="the piece bad lost its worker 2 times .signal 9"):
        LocalExecutor(workers=2, retries=1).run("test", [piece(tmp_path, "bad", does="die"), piece(tmp_path, "good")])
    assert [name for name, _ in marks(tmp_path, "did")].count("bad") == 2


def test_what_cannot_be_sent_is_named(tmp_path):
    pieces = [piece(tmp_path, name) for name in "ab"]
    pieces = [type(one)(**{**vars(one), "open": lambda: None}) for one in pieces]
    with pytest.raises(UserError, match="the piece a cannot be sent to another process .*executor.workers=1"):
        LocalExecutor(workers=2).run("test", pieces)


def test_how_many_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    light = [piece(tmp_path, f"{i}") for i in range(20)]
    heavy = [type(one)(**{**vars(one), "needs": Needs(True, 100.0)}) for one in light]
    short = [type(one)(**{**vars(one), "needs": Needs(False, 0.1)}) for one in light]
    chosen = LocalExecutor()
    assert [chosen.count(pieces) for pieces in (light, light[:3], light[:1], short, heavy)] == [8, 3, 1, 1, 2]
    assert chosen.count(heavy, cards=3) == 3 and LocalExecutor(workers=5).count(short) == 5
    for wrong in ({"workers": 0}, {"threads": 0}, {"workers": "abc"}, {"memory_gb": "much"}, {"retries": 0.5}):
        with pytest.raises(UserError, match="executor"):
            LocalExecutor(**wrong)


def test_no_more_workers_than_memory_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(local.machine, "free_memory_gb", lambda: 1.0)
    LocalExecutor(workers=3).run("test", [piece(tmp_path, f"{i}") for i in range(3)])
    assert len({process for _, process in marks(tmp_path, "did")}) == 1


def test_a_worker_has_a_card_of_its_own_among_those_that_may_be_used(tmp_path, monkeypatch):
    """The second worker is lost: the one in its place has its card, and not that of the first."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setattr(local.machine, "gpus", lambda: 2)
    pieces = [piece(tmp_path, "long", does=2.0), piece(tmp_path, "lost", does="die once")]
    LocalExecutor().run("test", [replace(one, needs=Needs(True, 100.0)) for one in pieces])
    assert sorted(card for card, _ in marks(tmp_path, "card")) == ["5", "7", "7"]


DRIVER = """
import sys
from pathlib import Path
from small_pieces import piece
from emodistill.execution.local import LocalExecutor
from emodistill.execution.pieces import plan

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pieces = [piece(folder, f"{i}", does=0.25) for i in range(12)]
    LocalExecutor(workers=2).run("test", plan(pieces).now)
"""


@pytest.fixture
def driver(tmp_path):
    """Starts a program that does twelve pieces with two workers."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    places = [str(Path(__file__).parent), str(Path(local.__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}

    def start():
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and
        try:  # what they start would too
            return subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], env=environment)
        finally:
            signal.signal(signal.SIGINT, before)

    return start


def children(process):
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(process):
    status = Path(f"/proc/{process}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(("sent", "pieces"), [(signal.SIGKILL, 1), (signal.SIGKILL, 6), (signal.SIGINT, 4)])
def test_workers_end_with_the_driver_and_the_next_one_goes_on(driver, tmp_path, sent, pieces):
    out = tmp_path / "out"
    (out / "marks").mkdir(parents=True)
    running = driver()
    wait_until(lambda: len(marks(out, "did")) >= pieces)
    workers = children(running.pid)
    running.send_signal(sent)
    assert running.wait(60) in (-sent, 130, 1)
    wait_until(lambda: not any(map(is_running, workers)))
    before, began = contents(out), len(marks(out, "did"))
    assert len(before) < 12
    assert driver().wait(60) == 0
    assert len(contents(out)) == 12 and before.items() <= contents(out).items()
    assert len(marks(out, "did")) == began + 12 - len(before)  # nothing that was finished is done again
