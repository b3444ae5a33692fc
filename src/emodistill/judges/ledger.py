"""The ledger: judgements in a SQLite file, one row each, so that no utterance is ever judged or paid for twice.

A row has a score, or the reason why there is none. Its key is a hash of everything that a judge may look at, so a
changed rubric, judge or history gets a row of its own, and old rows stay right. A score is final. A missing one is
asked for again the next time somebody needs it, because the usual reason is an outage; the later answer replaces the
reason, and the usages of all tries add up. A score that waits for the probe of its batch (`Judgement.pending_score`,
column `held`) is stored as it arrives, counts as missing, and is given back to the judge with the next request.

What was paid for is committed as it arrives, so a killed process loses the calls in flight and nothing else. Free
judgements are committed in batches. A commit survives the end of the process; a power cut can lose the last second,
because waiting for the disk takes milliseconds and is done once a second and at the end. The file is in SQLite's WAL
mode, which needs memory that all its users share; on a disk of the network, where there is none, it keeps a rollback
journal instead, with which every commit waits for the disk.

Threads and processes share a file, and one alone asks for a judgement: whoever asks has claimed it before, the others
wait for its score. A claim is a row of the table `claims`. It holds while a file beside the ledger, named after its
owner, is locked; the system lets go of that lock when the owner dies, and whoever waits asks in its place.
"""

import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emodistill.errors import UserError
from emodistill.execution.pieces import Advance, Executor, Needs, Piece, digest
from emodistill.files import held, is_held
from emodistill.judges.request import (
    HIGHEST,
    LOWEST,
    Judge,
    Judgement,
    JudgeRequest,
    OnJudgement,
    rubric_version,
)
from emodistill.language_models.completion import Usage

logger = logging.getLogger(__name__)

OnScore = Callable[[int, float | None], None]  # index of the request, and its score

APPLICATION_ID = 0x454D4F4A  # "EMOJ", in the file's header: tells a ledger from other people's databases
FORMAT = 4  # of the table below, in the file's header; raise it with any change of the table
_TABLE = """CREATE TABLE judgements (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, judge_version TEXT NOT NULL, rubric_version TEXT NOT NULL,
    domain TEXT NOT NULL, scenario_id TEXT NOT NULL, emotion TEXT, utterance TEXT NOT NULL,
    score REAL CHECK (score BETWEEN 1 AND 10), parts TEXT, reason TEXT, raw TEXT,
    held REAL CHECK (held BETWEEN 1 AND 10),
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL, latency_s REAL NOT NULL,
    attempts INTEGER NOT NULL, judged_at REAL NOT NULL,
    CHECK ((score IS NULL) <> (reason IS NULL))
) WITHOUT ROWID"""
_CLAIMS = "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID"
COLUMNS = (
    *("key", "judge", "judge_version", "rubric_version", "domain", "scenario_id", "emotion", "utterance"),
    *("score", "parts", "reason", "raw", "held"),
    *("prompt_tokens", "completion_tokens", "cost", "latency_s", "attempts", "judged_at"),
)
_GET = """SELECT score, parts, reason, raw, held, prompt_tokens, completion_tokens, cost, latency_s, attempts
FROM judgements WHERE key = ?"""
# A stored score stays as it is; usage adds up, whether it brought a score or not.
_VERDICT = ", ".join(
    f"{name} = CASE WHEN judgements.score IS NULL THEN excluded.{name} ELSE judgements.{name} END"
    for name in ("score", "parts", "reason", "raw", "judged_at", "held")
)
_USAGE = ", ".join(
    f"{name} = coalesce(judgements.{name} + excluded.{name}, judgements.{name}, excluded.{name})"
    for name in ("prompt_tokens", "completion_tokens", "cost", "latency_s", "attempts")
)
_PUT = (
    f"INSERT INTO judgements ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    f"ON CONFLICT (key) DO UPDATE SET {_VERDICT}, {_USAGE}"
)

PART = 256  # judgements, a multiple of those that share a probe
LOCAL_S, ASKED_S = 1.0, 0.1  # about what one takes: with a model on this machine, and elsewhere
_BUSY_TIMEOUT_S = 60.0  # how long another process may hold the file
_PAUSE_S = 1.0  # how long a free judgement waits for others, and how often the disk is waited for
_LOOK_S, _LOOK_MOST_S = 0.02, 0.5  # between looks at what other processes ask for, which become rarer


class Ledger:
    """The judgements in one file; any number of threads may use it. A context manager, or call `close`.

    A file that is there is checked at once; one that is not is made when a judge is first asked.

    Raises:
        UserError: if the file is no ledger, has another format, is damaged, or cannot be written. It is left as it is.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._of_thread = threading.local()
        self._guard = threading.Lock()
        self._connections: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._is_open, self._opening = False, threading.Lock()
        if self.path.exists():
            self.open()

    def open(self) -> None:
        """Make the file now if it is not there: what is paid for next can be stored."""
        with self.explained():
            _ = self.connection

    def count(self) -> int:
        """How many judgements are stored, missing ones included."""
        if not self.path.exists():
            return 0
        with self.explained():
            return int(self.connection.execute("SELECT count(*) FROM judgements").fetchone()[0])

    def get(self, keys: Collection[str]) -> dict[str, Judgement]:
        """What is stored under these keys; keys without a row are absent. Usage is that of all tries together."""
        if not self.path.exists():
            return {}
        with self.explained():
            ask = self.connection.execute
            found = {key: row for key in keys if (row := ask(_GET, (key,)).fetchone()) is not None}
        return {key: _judgement(row) for key, row in found.items()}

    def put(self, judge: Judge, judged: Iterable[tuple[str, JudgeRequest, Judgement]]) -> None:
        """Store judgements with their keys, all or none; a score that is there already stays.

        They outlive this process at once, and a power cut from the next `sync` on.
        """
        rows = [_row(judge, *one) for one in judged]
        if rows:
            with self.explained(), self.transaction():
                self.connection.executemany(_PUT, rows)

    def sync(self) -> None:
        """Wait until the disk has all that is stored."""
        with self.explained():
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def claimed(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Those of the keys that no other process asks for, in order; none will until this ends, or this process does.

        Threads of one process keep out of each other's way before (`InFlightKeys`).
        """
        if not keys:
            yield []
            return
        self.open()
        owner = uuid.uuid4().hex
        with held(self._owner_file(owner), "put the ledger on another disk with judge.ledger.path=..."):
            try:
                yield self._claim(keys, owner)
            finally:
                with suppress(sqlite3.DatabaseError), self.transaction():  # a claim ends with its file in any case
                    self.connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))

    def _claim(self, keys: Sequence[str], owner: str) -> list[str]:
        """Claim those of the keys that nobody alive has claimed, and return them."""
        with self.explained(), self.transaction():
            ask = self.connection.execute
            ask(_CLAIMS)
            others = [one for (one,) in ask("SELECT DISTINCT owner FROM claims").fetchall()]
            gone = [one for one in others if not is_held(self._owner_file(one))]
            for one in gone:
                ask("DELETE FROM claims WHERE owner = ?", (one,))
            mine = [key for key in keys if ask("SELECT 1 FROM claims WHERE key = ?", (key,)).fetchone() is None]
            self.connection.executemany("INSERT INTO claims VALUES (?, ?)", ((key, owner) for key in mine))
        for one in gone:
            self._owner_file(one).unlink(missing_ok=True)
        return mine

    def _owner_file(self, owner: str) -> Path:
        return self.path.with_name(f"{self.path.name}-asking-{owner}")

    @property
    def connection(self) -> sqlite3.Connection:
        """The calling thread's own connection: a transaction belongs to a connection, so two threads need two.

        The first one makes the file.
        """
        if not hasattr(self._of_thread, "connection"):
            with self._opening:
                self._of_thread.connection = self._connect()
                if not self._is_open:
                    try:
                        self._open()
                    except (sqlite3.Error, UserError):
                        self._of_thread.connection.close()
                        del self._of_thread.connection
                        raise
                    self._is_open = True
                self._of_thread.connection.execute("PRAGMA synchronous = NORMAL")  # `sync` waits for the disk
        found: sqlite3.Connection = self._of_thread.connection
        return found

    def close(self) -> None:
        """Close the calling thread's connection and those of threads that ended; one in use closes with its thread."""
        if hasattr(self._of_thread, "connection"):
            self._of_thread.connection.close()
        self._close_ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite itself rolls back on some errors, a full disk among them
                self.connection.execute("ROLLBACK")
            raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns SQLite's errors into sentences that say what the user can do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            way_out = (
                "check free space, write permission and other users of it, or put it on another disk with "
                "judge.ledger.path=..., then run again; what is stored is kept"
            )
            raise UserError(f"the judge ledger {self.path} cannot be used ({error}); {way_out}") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise  # a bug of ours, not the user's file
            way_out = "move it away (a new one is made), or mend it with: sqlite3 FILE .recover"
            raise UserError(f"{self.path} is not a readable judge ledger ({error}); {way_out}") from error

    def _connect(self, alone: bool = False) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder of the ledger {self.path} cannot be made ({error}); choose another") from error
        made = sqlite3.connect(  # another thread may close it when this one has ended, and nothing else
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        if alone:  # before anything looks into the file
            made.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._close_ended()
        with self._guard:
            self._connections.append((threading.current_thread(), made))
        return made

    def _close_ended(self) -> None:
        with self._guard:
            for thread, connection in self._connections:
                if not thread.is_alive():
                    connection.close()
            self._connections = [pair for pair in self._connections if pair[0].is_alive()]

    def _open(self) -> None:
        """Make the file where there is none, in WAL mode where its disk can do that; later it keeps the mode it has."""
        try:
            self._upgrade()
            if self._is_ledger() and self._journal_mode() == "delete":
                return
            if not on_network_disk(self.path):
                self._use_write_ahead_log()
                self._make()
                return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL) or not self._is_writable():
                raise
        self._use_rollback_journal()

    def _upgrade(self) -> None:
        """A ledger of format 3 lacks the column `parts`; what was paid for stays."""
        if not self._is_of_format(3) or not self._is_writable():
            return
        with self.transaction():
            if self._is_of_format(3):  # another process may have done it meanwhile
                self.connection.execute("ALTER TABLE judgements ADD COLUMN parts TEXT")
                self.connection.execute("PRAGMA user_version = 4")

    def _is_of_format(self, version: int) -> bool:
        asked = ("PRAGMA application_id", "PRAGMA user_version")
        return [int(self.connection.execute(query).fetchone()[0]) for query in asked] == [APPLICATION_ID, version]

    def _journal_mode(self) -> str:
        return str(self.connection.execute("PRAGMA journal_mode").fetchone()[0])

    def _make(self) -> None:
        if not self._is_ledger():  # looked at before anything is written: a file of somebody else stays as it is
            with self.transaction():
                if not self._is_ledger():  # another process may have made it meanwhile
                    for statement in (_TABLE, f"PRAGMA application_id = {APPLICATION_ID}"):
                        self.connection.execute(statement)
                    self.connection.execute(f"PRAGMA user_version = {FORMAT}")

    def _is_writable(self) -> bool:
        return self.path.is_file() and os.access(self.path, os.W_OK)

    def _is_ledger(self) -> bool:
        """True for a ledger, False for an empty file; anything else is a UserError."""
        tables, owner, version = (  # tables first: a process that makes the file now commits all together
            int(self.connection.execute(query).fetchone()[0])
            for query in ("SELECT count(*) FROM sqlite_master", "PRAGMA application_id", "PRAGMA user_version")
        )
        if tables == 0 and owner in (0, APPLICATION_ID):
            return False
        if owner != APPLICATION_ID:
            raise UserError(f"{self.path} is a database of something else, not a judge ledger; choose another path")
        if version != FORMAT:
            way_out = "delete it or move it away, and a new one is made"
            raise UserError(f"the judge ledger {self.path} has format {version}, this code has {FORMAT}; {way_out}")
        return True

    def _use_write_ahead_log(self) -> None:
        """Switch the file to WAL and write once, to nothing: some disks say no only then."""
        self._switch_journal("WAL")
        if self._is_writable():
            with self.transaction():
                pass

    def _use_rollback_journal(self) -> None:
        """Switch the file away from WAL, which only a connection that holds it alone can do without shared memory."""
        self.connection.close()
        self._of_thread.connection = self._connect(alone=True)
        self._make()
        self._switch_journal("DELETE")
        self.connection.execute("PRAGMA locking_mode = NORMAL")
        self._is_ledger()  # it lets go of the file with the next look into it

    def _switch_journal(self, mode: str) -> None:
        """SQLite does not wait for others there, whatever the timeout, so this does."""
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                self.connection.execute(f"PRAGMA journal_mode = {mode}")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


NETWORK_DISKS = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ncpfs|afs|9p|ceph|lustre|gpfs|beegfs\w*|panfs|orangefs|ocfs2|gfs2|glusterfs"
    r"|fuse\.(?:sshfs|glusterfs|ceph\w*|s3fs|rclone|gcsfuse|davfs\w*|beegfs\w*|juicefs|mount-s3)"
)
_MOUNTS = Path("/proc/self/mountinfo")


def on_network_disk(path: Path, mounts: str | None = None) -> bool:
    """Whether a file lies on a disk of the network, as far as the system says so.

    On such a disk WAL may seem to work, but users on two machines would destroy the file: they share no memory.

    Args:
        mounts: the system's list of mounts, in the form of /proc/self/mountinfo; read where it is None.
    """
    if mounts is None:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace") if _MOUNTS.is_file() else ""
    place, kind, longest = path.resolve(), "", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) > 4 and kinds:
            folder = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[4]))
            if len(folder.parts) >= longest and place.is_relative_to(folder):  # of two in one place the later one shows
                kind, longest = kinds[0], len(folder.parts)
    return NETWORK_DISKS.fullmatch(kind) is not None


def judgement_key(judge: Judge, request: JudgeRequest) -> str:
    """sha256 of all that a judgement may depend on; of a judge that `plays_on`, the origin of the words too.

    Of a past turn that is what both sides saw: speaker, text, act, offer; not the emotion that was asked for, nor its
    probability. A judge must not look at more. Model and sampling settings are in the judge's version.
    """
    scenario = request.scenario
    history = [(turn.round, turn.speaker, turn.text, turn.act, turn.offer) for turn in request.history]
    setting = (scenario.domain, scenario.id, scenario.focal_target, scenario.counterparty_target, scenario.context)
    who = (judge.name, judge.version, rubric_version(scenario.rules))
    asked: list[Any] = [who, setting, history, request.emotion, request.utterance]
    if getattr(judge, "plays_on", False) and request.origin is not None:
        asked.append(asdict(request.origin))
    content = json.dumps(asked, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _row(judge: Judge, key: str, request: JudgeRequest, judgement: Judgement) -> tuple[str | float | None, ...]:
    """The values of a row, in the order of `COLUMNS`."""
    scenario, usage = request.scenario, judgement.usage
    about = (
        rubric_version(scenario.rules),
        scenario.domain,
        scenario.id,
        request.emotion,
        _storable(request.utterance),
    )
    parts = json.dumps(dict(judgement.parts)) if judgement.parts else None
    words = (_storable(judgement.reason), _storable(judgement.raw))
    verdict = (judgement.score, parts, *words, judgement.pending_score)
    took = (usage.prompt_tokens, usage.completion_tokens, usage.cost, usage.latency_s, usage.attempts)
    return (key, judge.name, judge.version, *about, *verdict, *took, time.time())


def _judgement(row: Sequence[Any]) -> Judgement:
    """The judgement in a row of `_GET`."""
    score, parts, reason, raw, held, *took = row
    return Judgement(score, reason, raw, Usage(*took), held, json.loads(parts) if parts else {})


def _storable(text: str | None) -> str | None:
    """Text that SQLite takes: half of a surrogate pair becomes a question mark."""
    return None if text is None else text.encode("utf-8", "replace").decode()


class InFlightKeys:
    """Keys that threads of this process are asking a judge for, so that no two threads pay for the same judgement."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._freed = threading.Condition()

    def take(self, keys: Collection[str]) -> list[str]:
        """Hold those of the keys that no thread holds, and return them; never waits."""
        with self._freed:
            free = [key for key in keys if key not in self._held]
            self._held.update(free)
            return free

    def release(self, keys: Collection[str]) -> None:
        """Let go of keys and wake the threads that wait for them."""
        with self._freed:
            self._held.difference_update(keys)
            self._freed.notify_all()

    def wait(self, keys: Collection[str]) -> None:
        """Return once no thread holds any of the keys."""
        with self._freed:
            self._freed.wait_for(lambda: self._held.isdisjoint(keys))


_IN_FLIGHT: dict[Path, InFlightKeys] = {}
_IN_FLIGHT_GUARD = threading.Lock()


def in_flight_keys(path: Path) -> InFlightKeys:
    """The keys in flight of a file: the same object for every `Ledger` on it."""
    with _IN_FLIGHT_GUARD:
        return _IN_FLIGHT.setdefault(path.resolve(), InFlightKeys())


class LedgerJudge:
    """A judge that asks only for what its ledger does not have.

    Args:
        batch_size: most free judgements that wait to be stored together; what was paid for is stored as it arrives.
        offline: ask nobody. What the ledger does not have is missing, and nothing is written.
        executor: judges what is missing in parts, where it is much; None judges it here, at once.
    """

    def __init__(
        self,
        judge: Judge,
        ledger: Ledger,
        batch_size: int = 256,
        offline: bool = False,
        executor: Executor | None = None,
    ) -> None:
        self.judge, self.ledger, self.batch_size, self.offline = judge, ledger, batch_size, offline
        self.executor = executor
        self.in_flight = in_flight_keys(ledger.path)

    def scores(self, requests: Sequence[JudgeRequest], on_score: OnScore | None = None) -> list[float | None]:
        """One score per request, in order, None where the judge gave none; all are stored before this returns.

        Args:
            on_score: called once for every request, on the calling thread, as soon as its score is known.
        """
        tell = None if on_score is None else lambda index, judgement: on_score(index, judgement.score)
        return [judgement.score for judgement in self.judgements(requests, tell)]

    def judgements(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """The same with the parts of the score, reason, raw reply and usage (that of all tries so far)."""
        keys = [judgement_key(self.judge, request) for request in requests]
        call = _Call(self, keys, requests, on_judgement)
        call.read(call.requests)
        call.tell(key for key, judgement in call.known.items() if judgement.score is not None)
        missing = [key for key in call.requests if key not in call.known or call.known[key].score is None]
        if self.offline:
            reason = f"{self.ledger.path} has no judgement of it, and offline=true asks nobody"
            call.known = dict.fromkeys(missing, Judgement(None, reason)) | call.known
            call.tell(missing)
        else:
            self._fill(call, missing)
        found = [call.known[key] for key in keys]
        reasons = [judgement.reason for judgement in found if judgement.score is None]
        if reasons:
            logger.warning("%d of %d judgements are missing; the first: %s", len(reasons), len(found), reasons[0])
        return found

    def _fill(self, call: "_Call", keys: list[str]) -> None:
        """Ask for what is missing, in parts where there is an executor, they are many and independent."""
        by_itself = getattr(self.judge, "by_itself", None)
        if self.executor is None or by_itself is None or len(keys) < 2 * PART:
            self._ask(call, keys)
        else:
            self._ask_in_parts(self.executor, call, keys, by_itself == "model")

    def _ask(self, call: "_Call", missing: list[str]) -> None:
        """Ask for what nobody else is asking for, then wait for the others; again, where those failed."""
        pause = _LOOK_S
        while missing:
            with self._claimed(missing) as mine:
                news = call.read(mine)  # what came in between the look into the ledger and the claim
                call.ask([key for key in mine if key not in news])
            mine_too = set(mine)
            others = [key for key in missing if key not in mine_too]
            self.in_flight.wait(others)
            news |= call.read(others)
            call.tell(news)
            missing = [key for key in others if key not in news]
            if missing and not mine:  # another process is asking
                time.sleep(pause)
                pause = min(2 * pause, _LOOK_MOST_S)

    @contextmanager
    def _claimed(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Those of the keys that no other thread and no other process asks for, in order; none will until the end."""
        held_here = self.in_flight.take(keys)
        try:
            with self.ledger.claimed(held_here) as mine:
                self.in_flight.release(set(held_here).difference(mine))
                held_here = mine
                yield mine
        finally:
            self.in_flight.release(held_here)

    def _ask_in_parts(self, executor: Executor, call: "_Call", keys: Sequence[str], is_model: bool) -> None:
        """Have these judged by whoever carries out pieces.

        Every key is in one part, which claims it, asks for it, and stores each judgement as it arrives: the ledger says
        what is left if a worker is lost, or the command is.
        """
        who = [self.judge.name, self.judge.version, str(self.ledger.path)]
        open_part = partial(_Part, self.judge, self.ledger.path, self.batch_size)
        seconds = LOCAL_S if is_model else ASKED_S
        pieces = []
        for first in range(0, len(keys), PART):
            part = keys[first : first + PART]
            pieces.append(
                Piece(
                    name=digest([who, part]),
                    title=f"judgements {first + 1} to {first + len(part)} of {len(keys)}",
                    open=open_part,
                    kit=digest(who),
                    task=([call.requests[key] for key in part],),
                    done=partial(self._has, part),
                    size=len(part),
                    needs=Needs(is_model, len(part) * seconds),
                )
            )
        self.ledger.open()
        executor.run(f"judging with {self.judge.name}", pieces)
        call.known |= self.ledger.get(keys)
        call.tell(keys)

    def _has(self, keys: Sequence[str]) -> bool:
        """Whether the ledger has a score for each of these."""
        found = self.ledger.get(keys)
        return all(key in found and found[key].score is not None for key in keys)


class _Part:
    """Judges parts of what is missing, in whatever process: what the ledger has got meanwhile is not asked for."""

    def __init__(self, judge: Judge, path: Path, batch_size: int) -> None:
        self.judge = LedgerJudge(judge, Ledger(path), batch_size)

    def __call__(self, requests: Sequence[JudgeRequest], advance: Advance) -> None:
        self.judge.judgements(requests, lambda place, judgement: advance(1))


class _Call:
    """One call of a `LedgerJudge`: what is known of its requests, whom to tell, and what is still to be stored.

    Attributes:
        requests: by key, each once.
        known: judgements by key, as far as they are known.
    """

    def __init__(
        self,
        owner: LedgerJudge,
        keys: Sequence[str],
        requests: Sequence[JudgeRequest],
        on_judgement: OnJudgement | None,
    ) -> None:
        self.judge, self.ledger, self.batch_size = owner.judge, owner.ledger, owner.batch_size
        self.on_judgement = on_judgement
        self.requests = dict(zip(keys, requests, strict=True))
        self.known: dict[str, Judgement] = {}
        self._untold: dict[str, list[int]] = {}  # indices of the requests whose score nobody was told yet
        for index, key in enumerate(keys):
            self._untold.setdefault(key, []).append(index)
        self._asked: list[str] = []
        self._final: set[str] = set()  # of what was asked, the keys with a final judgement
        self._pending: set[str] = set()  # and those with a pending score, now or from an earlier call
        self._unstored: list[tuple[str, Judgement]] = []
        self._stored_at = self._synced_at = time.monotonic()

    def read(self, keys: Collection[str]) -> set[str]:
        """Take over what the ledger has; returns the keys with a final judgement that was not known."""
        stored = self.ledger.get(keys)
        news = {key for key, one in stored.items() if one.pending_score is None and one != self.known.get(key)}
        self.known |= stored
        return news

    def tell(self, keys: Iterable[str]) -> None:
        if self.on_judgement is not None:
            for key in keys:
                for index in self._untold.pop(key, ()):
                    self.on_judgement(index, self.known[key])

    def ask(self, keys: list[str]) -> None:
        """Put these requests to the judge and store every judgement; pending scores are given back to it."""
        if not keys:
            return
        self._asked, self._final = keys, set()
        earlier = [self.known.get(key) for key in keys]
        pending = [one if one is not None and one.pending_score is not None else None for one in earlier]
        self._pending = {key for key, one in zip(keys, pending, strict=True) if one is not None}
        requests = [replace(self.requests[key], pending=one) for key, one in zip(keys, pending, strict=True)]
        self._stored_at = self._synced_at = time.monotonic()
        try:
            answers = self.judge.judge(requests, self.take)
            for (place, _), answer in zip(enumerate(keys), answers, strict=True):
                self.take(place, answer)  # of a judge that announces nothing
        finally:
            self._store()
            self.ledger.sync()
        self.known |= self.ledger.get(keys)  # another process may have been first, and its score counts

    def take(self, place: int, given: Judgement) -> None:
        """The judgement of one request that was asked, pending or final; after a final one nothing is looked at."""
        key = self._asked[place]
        if key in self._final:
            return
        judgement = valid(given)
        (self._final if judgement.pending_score is None else self._pending).add(key)
        self._unstored.append((key, judgement))
        at_once = judgement.usage.attempts > 0 or key in self._pending
        if at_once or len(self._unstored) >= self.batch_size or time.monotonic() - self._stored_at >= _PAUSE_S:
            self._store()
        if judgement.pending_score is None:
            self.known[key] = judgement
            if self.on_judgement is not None:
                for index in self._untold.pop(key, ()):
                    self.on_judgement(index, judgement)

    def _store(self) -> None:
        now = time.monotonic()
        share_s = (now - self._stored_at) / max(len(self._unstored), 1)
        self.ledger.put(
            self.judge,
            (
                (key, self.requests[key], one if key in self._pending else _timed(one, share_s))
                for key, one in self._unstored
            ),
        )
        self._unstored.clear()
        self._stored_at = now
        if now - self._synced_at >= _PAUSE_S:
            self.ledger.sync()
            self._synced_at = now


def valid(given: Judgement) -> Judgement:
    """The judgement as it may be stored: a score outside 1 to 10 is missing, and what is missing has a reason."""
    score = given.score if given.pending_score is None else given.pending_score
    if score is not None and not LOWEST <= score <= HIGHEST:  # true of NaN too
        reason = f"the judge gave {score}, which is not a score from 1 to 10"
        return replace(given, score=None, reason=reason, pending_score=None, parts={})
    if given.score is None:
        return replace(given, reason=given.reason or "the judge gave no score and no reason")
    return replace(given, score=float(given.score), reason=None)


def _timed(judgement: Judgement, share_s: float) -> Judgement:
    """With its share of the time since the last storing, for a judge that does not say how long it took."""
    usage = judgement.usage
    return judgement if usage.latency_s else replace(judgement, usage=replace(usage, latency_s=share_s))
