"""A file is whole or absent; a folder is for one process, and its lock never outlives the holder."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from emodistill.errors import UserError
from emodistill.files import atomic_write, exclusive, replacing, updating

SOURCE = Path(__file__).resolve().parents[1] / "src"
HOLD = """
import sys, time
from pathlib import Path
from emodistill.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "report.json"
    atomic_write(target, "first")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(target, "second \ud800")
    assert target.read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    target, left = tmp_path / "adapter", tmp_path / "adapter.partial"
    left.mkdir()  # by a process that was killed
    (left / "old").write_text("half")
    for words in ("first", "second"):
        with replacing(target) as partial:
            partial.mkdir()
            (partial / words).write_text(words)
        assert [path.name for path in target.iterdir()] == [words]
    with pytest.raises(RuntimeError), replacing(target) as partial:
        partial.mkdir()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_for_one_process_and_its_lock_goes_with_it(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(UserError, match=f"{tmp_path.name} is in use by process {holder.pid}"),
                exclusive(tmp_path),
            ):
                pytest.fail("two processes in one folder")
        finally:
            holder.send_signal(signal.SIGKILL)
    with exclusive(tmp_path):
        assert (tmp_path / ".lock").read_text(encoding="utf-8") == f"process {os.getpid()}"


def test_a_lock_ends_with_its_block_even_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), exclusive(tmp_path / "new"):
        raise RuntimeError
    with exclusive(tmp_path / "new"), pytest.raises(UserError, match="in use by process"), exclusive(tmp_path / "new"):
        pytest.fail("held twice")


def test_who_may_wait_gets_the_folder_when_it_is_free(tmp_path):
    held, order = threading.Event(), []

    def hold():
        with exclusive(tmp_path):
            held.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with exclusive(tmp_path, wait=True):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_those_who_update_a_file_take_turns(tmp_path):
    file = tmp_path / "new" / "count"

    def count():
        for _ in range(50):
            with updating(file):
                before = int(file.read_text()) if file.is_file() else 0
                atomic_write(file, str(before + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == "200"
