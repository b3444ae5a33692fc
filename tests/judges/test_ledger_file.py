"""The file of the ledger: processes share it, nothing stored is lost, and what is no ledger is named and left alone."""

import multiprocessing
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from judge_cases import CountingJudge

from emodistill.errors import UserError
from emodistill.judges.ledger import FORMAT, Ledger, LedgerJudge, judgement_key, on_network_disk
from emodistill.judges.request import Judgement, JudgeRequest


def _fill(path, scenario, start, go):
    go.wait()
    with Ledger(path) as ledger:
        keeper = LedgerJudge(CountingJudge(), ledger, batch_size=4)
        keeper.scores([JudgeRequest(scenario, (), "joy", f"text {i}") for i in range(start, start + 60)])


def test_processes_share_a_file_from_its_very_making(scenario, path):
    spawn = multiprocessing.get_context("fork")
    go = spawn.Event()
    workers = [spawn.Process(target=_fill, args=(path, scenario, start, go)) for start in (0, 20, 40, 60)]
    for worker in workers:
        worker.start()
    go.set()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    with Ledger(path) as ledger:
        assert ledger.count() == 120


def test_a_file_that_another_process_makes_first_is_taken_as_it_is(ask, path):
    class Beaten(Ledger):
        def _is_ledger(self):
            found = super()._is_ledger()
            if not found and not self.connection.in_transaction:
                with Ledger(self.path) as first:
                    LedgerJudge(CountingJudge(), first).scores(ask("theirs"))
            return found

    with Beaten(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("mine"))
        assert ledger.count() == 2


def test_of_two_scores_the_first_stays_and_is_reported(ask, path):
    (request,) = ask("word")
    with Ledger(path) as mine, Ledger(path) as theirs:
        slow = CountingJudge()
        key = judgement_key(slow, request)
        slow._one = lambda text: theirs.put(slow, [(key, request, Judgement(5.0))]) or Judgement(9.5)
        assert LedgerJudge(slow, mine).scores([request]) == [5.0]


def test_a_full_disk_is_a_user_error_and_what_was_stored_stays(ask, path):
    with Ledger(path) as ledger:
        keeper = LedgerJudge(CountingJudge(), ledger)
        keeper.scores(ask("kept"))
        pages = ledger.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match="ledger.sqlite cannot be used .*full.*free space"):
            keeper.scores(ask("x" * 50_000))
        ledger.connection.execute("PRAGMA max_page_count = 1000000")
        assert keeper.scores(ask("kept", "again")) == [5.0, 6.0]
        assert ledger.count() == 2


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 100)
    with pytest.raises(UserError, match="notes.txt is not a readable judge ledger.*move it away"):
        Ledger(path)
    assert path.read_text() == "dear diary, " * 100


def test_a_database_of_something_else_is_named_and_left_alone(tmp_path):
    path = tmp_path / "photos.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE photos (id)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="photos.sqlite is a database of something else"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_ledger_of_the_format_before_is_brought_up_to_date_and_keeps_what_was_paid_for(ask, path):
    with Ledger(path) as ledger:
        paid = LedgerJudge(CountingJudge(), ledger).scores(ask("word", "more words"))
        ledger.connection.execute("ALTER TABLE judgements DROP COLUMN parts")
        ledger.connection.execute("PRAGMA user_version = 3")
    judge = CountingJudge()
    with Ledger(path) as ledger:
        assert LedgerJudge(judge, ledger).scores(ask("word", "more words", "new"))[:2] == paid
        assert ledger.connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    assert len(judge.asked) == 1


@pytest.mark.parametrize("version", [0, 1, 2, FORMAT + 1])
def test_a_ledger_of_another_format_is_refused_and_left_alone(ask, path, version):
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("word"))
        ledger.connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"ledger.sqlite has format {version}, .* delete it or move it away"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_damaged_ledger_is_explained(ask, path):
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask(*(f"text {i} " * 40 for i in range(60))))
    damaged = bytearray(path.read_bytes())
    damaged[4096 : len(damaged)] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="is not a readable judge ledger .*malformed"), Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("text 1 " * 40))


def test_a_path_that_cannot_be_opened_is_explained(ask, tmp_path):
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(UserError, match="folder.sqlite cannot be used"):
        Ledger(tmp_path / "folder.sqlite")
    (tmp_path / "file").write_text("")
    judge = CountingJudge()
    with Ledger(tmp_path / "file" / "ledger.sqlite") as ledger, pytest.raises(UserError, match="cannot be made"):
        LedgerJudge(judge, ledger).scores(ask("word"))
    assert not judge.asked  # nothing is paid for that cannot be stored


def test_a_ledger_is_made_when_a_judge_is_asked_and_not_before(ask, tmp_path):
    path = tmp_path / "run" / "ledger.sqlite"
    with Ledger(path) as ledger:
        assert ledger.count() == 0
        assert LedgerJudge(CountingJudge(), ledger, offline=True).scores(ask("word")) == [None]
        assert not list(tmp_path.iterdir())
        LedgerJudge(CountingJudge(), ledger).scores(ask("word"))
        assert path.is_file() and ledger.count() == 1


def test_after_a_failure_to_open_the_next_try_is_a_new_one(ask, tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        path.mkdir()
        with pytest.raises(UserError, match="cannot be used"):
            LedgerJudge(CountingJudge(), ledger).scores(ask("word"))
        path.rmdir()
        assert LedgerJudge(CountingJudge(), ledger).scores(ask("word")) == [5.0]


def journal(path):
    """The mode of a file's journal."""
    connection = sqlite3.connect(path)
    with closing(connection):
        return connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_a_ledger_has_a_write_ahead_log(ask, path):
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("word"))
    assert journal(path) == "wal"


def without_shared_memory(path):
    """As on a disk of the network: the file of the memory that users share cannot be opened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}-shm").mkdir()


def test_where_memory_cannot_be_shared_a_ledger_has_a_rollback_journal(ask, scenario, path):
    without_shared_memory(path)
    for _ in range(2):
        with Ledger(path) as ledger:
            assert LedgerJudge(CountingJudge(), ledger).scores(ask("kept", "again")) == [5.0, 6.0]
            ledger.sync()
            assert ledger.count() == 2
    assert journal(path) == "delete"
    fork = multiprocessing.get_context("fork")
    go = fork.Event()
    workers = [fork.Process(target=_fill, args=(path, scenario, start, go)) for start in (0, 20, 40)]
    for worker in workers:
        worker.start()
    go.set()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with Ledger(path) as ledger:
        assert ledger.count() == 102


def test_threads_share_a_ledger_with_a_rollback_journal(ask, path):
    without_shared_memory(path)
    with Ledger(path) as ledger, ThreadPoolExecutor(4) as threads:
        texts = [[f"{'x' * (i % 5)} {j}" for i in range(30)] for j in range(4)]
        keepers = [LedgerJudge(CountingJudge(), ledger, batch_size=3) for _ in texts]
        scores = list(threads.map(lambda keeper, some: keeper.scores(ask(*some)), keepers, texts))
        assert [len(each) for each in scores] == [30] * 4 and ledger.count() == 20


def test_a_ledger_that_comes_from_another_disk_keeps_what_it_has(ask, path, tmp_path):
    """Copied with its log, as a killed process leaves it, to where memory cannot be shared."""
    moved = tmp_path / "moved" / "ledger.sqlite"
    without_shared_memory(moved)
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("kept"))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{moved}{suffix}")
    with Ledger(moved) as ledger:
        assert LedgerJudge(CountingJudge(), ledger).scores(ask("kept", "again")) == [5.0, 6.0]
        assert ledger.count() == 2
    assert journal(moved) == "delete"


def test_a_database_of_something_else_is_left_alone_there_too(tmp_path):
    path = tmp_path / "photos.sqlite"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE photos (id)")
    without_shared_memory(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="photos.sqlite is a database of something else"):
        Ledger(path)
    assert path.read_bytes() == before


MOUNTS = """22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:41 / /users rw,relatime shared:1 - nfs4 server:/users rw,vers=4.2
31 30 0:42 / /users/me/local rw,relatime - xfs /dev/vdb rw
32 27 0:43 / /mnt/my\\040share rw,relatime - cifs //server/share rw
33 27 0:44 / /mnt/far rw,relatime - fuse.sshfs me@server: rw
34 27 0:45 / /mnt/near rw,relatime - fuse.ntfs-3g /dev/vdc rw
35 27 0:46 / /lustre rw - lustre a@tcp:/scratch rw
36 27 0:47 / /over rw - ext4 /dev/vdd rw
37 27 0:48 / /over rw - nfs server:/over rw
"""


@pytest.mark.parametrize(
    ("path", "network"),
    [
        *(
            ("/users/you/ledger.sqlite", True),
            ("/users/me/local/ledger.sqlite", False),
            ("/users2/ledger.sqlite", False),
        ),
        *(
            ("/mnt/my share/a/ledger.sqlite", True),
            ("/mnt/far/ledger.sqlite", True),
            ("/mnt/near/ledger.sqlite", False),
        ),
        *(("/lustre/me/ledger.sqlite", True), ("/data/ledger.sqlite", False), ("/over/ledger.sqlite", True)),
    ],
)
def test_a_disk_of_the_network_is_known_by_its_kind(path, network):
    assert on_network_disk(Path(path), MOUNTS) == network
    assert not on_network_disk(Path(path), "")


def test_the_error_names_the_key_that_moves_the_ledger(tmp_path):
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(UserError, match=r"judge\.ledger\.path="):
        Ledger(tmp_path / "folder.sqlite")
