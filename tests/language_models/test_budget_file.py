"""The file of accounts: shared by threads and processes, named when damaged, whole whatever was read meanwhile."""

import errno
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from endpoints import ask, endpoint, total
from faulty_server import FaultyServer

from emodistill.errors import UserError
from emodistill.language_models import budget
from emodistill.language_models.budget import Reservation, Spending, UsageTotals


def _spend(path, count):
    spending = Spending(path)
    for _ in range(count):
        assert spending.reserve("m", Reservation(5, 0.5))
        spending.settle("m", Reservation(5, 0.5), UsageTotals(1, 2, 3, 0.25))


def test_processes_and_threads_share_a_file_and_lose_nothing(file):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_spend, args=(file, 100)) for _ in range(2)]
    workers += [threading.Thread(target=_spend, args=(file, 100)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert total(file) == UsageTotals(400, 800, 1200, 100.0)


def _call_that_never_ends(path, began):
    assert Spending(path).reserve("m", Reservation(5, 0.5))
    began.set()
    time.sleep(600)


def test_what_another_process_has_in_flight_counts_and_if_that_is_killed_as_a_call_without_a_bill(file, monkeypatch):
    monkeypatch.setattr(budget, "LOOK_S", 0.0)
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    other = context.Process(target=_call_that_never_ends, args=(file, began))
    other.start()
    assert began.wait(60)
    mine, wanted = Spending(file, max_tokens=8), Reservation(4, 0.0)
    assert mine.reserve("m", wanted) is None and total(file) == UsageTotals()  # perhaps later
    other.kill()
    other.join()
    unbilled = UsageTotals(1, unmetered_calls=1, unmetered_tokens=5, unmetered_cost=0.5)
    assert total(file) == unbilled
    assert mine.reserve("m", wanted) is False and mine.of("m") == unbilled  # never
    assert total(file) == unbilled and [path.name for path in Path(file).parent.iterdir()] == ["spending.json"]


def test_a_damaged_file_is_named(file):
    Path(file).parent.mkdir()
    for text in ("{", "[1]", '{"m": {"calls": 1, "jokes": 2}}', '{"in flight": 3}'):
        Path(file).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"spending\.json is damaged"):
            Spending(file)


def test_a_file_damaged_meanwhile_ends_the_run_and_not_in_silence(file):
    with FaultyServer() as server, endpoint(server, spending=Spending(file)) as client:
        client.complete([ask()])
        Path(file).write_text("{", encoding="utf-8")
        with pytest.raises(UserError, match=r"spending\.json is damaged"):
            client.complete([ask(f"{number}") for number in range(50)])


def test_a_deleted_file_begins_from_nothing(file):
    _spend(file, 3)
    Path(file).unlink()
    assert Spending(file, max_tokens=5).reserve("m", Reservation(5, 0.0))


def test_a_copy_put_back_counts_whatever_was_read_meanwhile(file):
    _spend(file, 3)
    mine, other = Path(file).read_bytes(), json.dumps({"m": vars(UsageTotals(calls=90))})
    Path(file).write_text(other, encoding="utf-8")
    assert Spending(file).of("m").calls == 90
    Path(file).write_bytes(mine)
    _spend(file, 1)
    assert total(file).calls == 4


def test_the_file_holds_sums_by_endpoint_and_nothing_else(file):
    _spend(file, 1)
    held = json.loads(Path(file).read_text(encoding="utf-8"))
    assert held == {"m": {**vars(UsageTotals(1, 2, 3, 0.25))}}
    assert [path.name for path in Path(file).parent.iterdir()] == ["spending.json"]


def test_a_text_that_becomes_shorter_leaves_nothing_behind(file):
    """0.1 + 0.2 is longer in print than that and 0.1 more."""
    spending = Spending(file)
    for cost in (0.1, 0.2, 0.1):
        assert spending.reserve("m", Reservation(0, 0.0))
        spending.settle("m", Reservation(0, 0.0), UsageTotals(1, cost=cost))
        assert Spending(file).of("m").cost == spending.of("m").cost
    assert total(file).calls == 3


def test_a_disk_without_locks_is_named_with_the_key_that_leaves_it(file, monkeypatch):
    """As some of the network."""

    def refuse(descriptor, poll_interval):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    spending = Spending(file)
    assert spending.reserve("m", Reservation(5, 0.5))
    monkeypatch.setattr(budget, "lock_descriptor", refuse)
    with pytest.raises(UserError, match=r"spending\.json cannot be locked .*endpoint\.spending\.path="):
        spending.settle("m", Reservation(5, 0.5), UsageTotals(1, 2, 3, 0.25))
    with pytest.raises(UserError, match=r"endpoint\.spending\.path="):
        Spending(file)
