"""Judgements kept for good: a SQLite file with one row a judgement, keyed by its content.

Scores cost money or time, so none is asked for twice, and none is ever invented: a row has a score, or no score and the
reason why. The key is a hash of everything a judge may look at, so a changed rubric, judge or history is another row
and old rows stay right. A row with a score is final. A row without one is asked again the next time somebody needs it,
because the usual reason is an outage; the later answer replaces the reason, and the bills of all tries add up. A score
that is held (`probed`) is stored as it arrives and counts as missing; asked again, the judge gets it back.

Several threads and processes can share a file. Within a process a judgement that one thread asks for is waited for by
the others. Where two processes ask the same thing at the same time both pay, the first score to arrive is kept, and
both report that one.
"""

import hashlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from emodistill.errors import UserError
from emodistill.judges.request import HIGHEST, LOWEST, Judge, Judgement, JudgeRequest, OnJudgement, rubric_version
from emodistill.language_models.completion import Usage

# ---- ledger_format ----
# What a ledger file holds, in SQL; and how a file of an earlier format is brought up to the present one.
#
# format 1  score or reason, what it is about, latency, time
# format 2  also the reply as it came, tokens, cost, attempts
# format 3  also a score that is held until the probe of its batch is there

APPLICATION_ID = 0x454D4F4A  # "EMOJ"; tells our files from other people's databases
FORMAT = 3
_FIRST = """CREATE TABLE judgements (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, judge_version TEXT NOT NULL, rubric_version TEXT NOT NULL,
    domain TEXT NOT NULL, scenario_id TEXT NOT NULL, emotion TEXT, utterance TEXT NOT NULL,
    score REAL CHECK (score BETWEEN 1 AND 10), reason TEXT, latency_s REAL NOT NULL, judged_at REAL NOT NULL,
    CHECK ((score IS NULL) <> (reason IS NULL))
) WITHOUT ROWID"""
_STEPS = {
    0: (_FIRST, f"PRAGMA application_id = {APPLICATION_ID}"),
    1: (
        "ALTER TABLE judgements ADD COLUMN raw TEXT",
        "ALTER TABLE judgements ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE judgements ADD COLUMN completion_tokens INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE judgements ADD COLUMN cost REAL",
        "ALTER TABLE judgements ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
    ),
    2: ("ALTER TABLE judgements ADD COLUMN held REAL CHECK (held BETWEEN 1 AND 10)",),
}
COLUMNS = (
    *("key", "judge", "judge_version", "rubric_version", "domain", "scenario_id", "emotion", "utterance"),
    *("score", "reason", "raw", "held"),
    *("prompt_tokens", "completion_tokens", "cost", "latency_s", "attempts", "judged_at"),
)
_IF_BETTER = "CASE WHEN judgements.score IS NULL THEN excluded.{0} ELSE judgements.{0} END"
_VERDICT = ", ".join(f"{name} = {_IF_BETTER.format(name)}" for name in ("score", "reason", "raw", "judged_at", "held"))
_BILL = ", ".join(
    f"{name} = coalesce(judgements.{name} + excluded.{name}, judgements.{name}, excluded.{name})"
    for name in ("prompt_tokens", "completion_tokens", "cost", "latency_s", "attempts")
)
# The first score stays; what was paid adds up, whether it brought a score or not.
STORE = (
    f"INSERT INTO judgements ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    f"ON CONFLICT (key) DO UPDATE SET {_VERDICT}, {_BILL}"
)


def bring_up(connection: sqlite3.Connection) -> None:
    """Make an empty file or one of an earlier format a ledger of the present one, within the open transaction."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for step in range(version if tables else 0, FORMAT):
        for statement in _STEPS[step]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT}")


# ---- ledger_file ----
# The SQLite file under the ledger: made, recognised, written whole or not at all, and its faults put into words.

_BUSY_TIMEOUT_S = 60.0


class LedgerFile:
    """One ledger file, open; any number of threads may use it. A context manager, or call `close`.

    A file of an earlier format is brought up to the present one as it is opened.

    Raises:
        UserError: if the file is no ledger, is damaged, or cannot be written. Nothing stored is touched then.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._mine = threading.local()
        self._guard = threading.Lock()
        self._connections: list[tuple[threading.Thread, sqlite3.Connection]] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder of the ledger {self.path} cannot be made ({error}); choose another") from error
        try:
            with self.explained():
                self._open()
        except UserError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """The calling thread's own connection: a transaction belongs to a connection, so two threads need two."""
        if not hasattr(self._mine, "connection"):
            self._mine.connection = self._connect()
        found: sqlite3.Connection = self._mine.connection
        return found

    def close(self) -> None:
        """Close the calling thread's connection and those of threads that ended; one in use closes with its thread."""
        if hasattr(self._mine, "connection"):
            self._mine.connection.close()
        self._close_ended()

    def _connect(self) -> sqlite3.Connection:
        made = sqlite3.connect(  # another thread may close it when this one has ended, and nothing else
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        made.execute("PRAGMA synchronous = NORMAL")  # `Ledger.sync` waits for the disk
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
        if not self._is_ledger():  # before anything is written: a stranger's file stays as it is
            with self.transaction():
                if not self._is_ledger():  # another process may have made it meanwhile
                    bring_up(self.connection)
        self._use_write_ahead_log()

    def _use_write_ahead_log(self) -> None:
        """Switch the file to WAL; SQLite does not wait for others there, whatever the timeout, so this does."""
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _is_ledger(self) -> bool:
        """True for one of ours, False for one still to be made or brought up; anything else is a UserError."""
        tables, owner = (  # tables first: a process that makes the file now commits all together
            self.connection.execute(query).fetchone()[0]
            for query in ("SELECT count(*) FROM sqlite_master", "PRAGMA application_id")
        )
        if tables == 0 and owner in (0, APPLICATION_ID):
            return False
        if owner != APPLICATION_ID:
            raise UserError(f"{self.path} is a database of something else, not a judge ledger; choose another path")
        if self._format() > FORMAT:
            way_out = "choose another path, or update this package"
            raise UserError(f"the ledger {self.path} has format {self._format()}, this code reads {FORMAT}; {way_out}")
        return self._format() == FORMAT

    def _format(self) -> int:
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

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
        """Turns what SQLite says into what the user can do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            way_out = (
                "see to free space, write permission and other users of it, then run again; what is stored is kept"
            )
            raise UserError(f"the judge ledger {self.path} cannot be used ({error}); {way_out}") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise  # a bug of ours, not the user's file
            way_out = "move it away (a new one is made), or mend it with: sqlite3 FILE .recover"
            raise UserError(f"{self.path} is not a readable judge ledger ({error}); {way_out}") from error


# ---- ledger_rows ----
# The rows of the ledger: what identifies a judgement, what is stored of it, reading and writing many at once.

_GET = """SELECT score, reason, raw, held, prompt_tokens, completion_tokens, cost, latency_s, attempts
FROM judgements WHERE key = ?"""


@dataclass(frozen=True)
class Row:
    """One judgement with what it is about."""

    key: str
    request: JudgeRequest
    judge: Judge
    judgement: Judgement

    def values(self) -> tuple[str | float | None, ...]:
        """In the order of `ledger_format.COLUMNS`."""
        request, verdict, scenario, usage = self.request, self.judgement, self.request.scenario, self.judgement.usage
        about = (rubric_version(scenario.rules), scenario.domain, scenario.id, request.emotion)
        given = (_text(request.utterance), verdict.score, _text(verdict.reason), _text(verdict.raw), verdict.held)
        took = (usage.prompt_tokens, usage.completion_tokens, usage.cost, usage.latency_s, usage.attempts)
        return (self.key, self.judge.name, self.judge.version, *about, *given, *took, time.time())


class Ledger(LedgerFile):
    """The judgements in one file; see `LedgerFile` for how it opens and what it raises."""

    def count(self) -> int:
        """How many judgements are stored, missing ones included."""
        with self.explained():
            return int(self.connection.execute("SELECT count(*) FROM judgements").fetchone()[0])

    def get(self, keys: Collection[str]) -> dict[str, Judgement]:
        """What is stored under these keys; keys without a row are absent. Usage is that of all tries together."""
        with self.explained():
            ask = self.connection.execute
            found = {key: row for key in keys if (row := ask(_GET, (key,)).fetchone()) is not None}
        return {key: Judgement(row[0], row[1], row[2], Usage(*row[4:]), row[3]) for key, row in found.items()}

    def put(self, rows: Sequence[Row]) -> None:
        """Store judgements, all or none; a score that is there already stays.

        They outlive this process at once, and a power cut from the next `sync` on.
        """
        if rows:
            with self.explained(), self.transaction():
                self.connection.executemany(STORE, [row.values() for row in rows])

    def sync(self) -> None:
        """Wait until the disk has all that is stored."""
        with self.explained():
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def judgement_key(judge: Judge, request: JudgeRequest) -> str:
    """sha256 of all that a judgement may depend on.

    Of a past turn that is what both sides saw: who spoke, the words, the act, the offer; not the emotion that was asked
    for, nor its probability. A judge must not look at more. Model and sampling settings are in the judge's version.
    """
    scenario = request.scenario
    history = [(turn.round, turn.speaker, turn.text, turn.act, turn.offer) for turn in request.history]
    setting = (scenario.domain, scenario.id, scenario.focal_target, scenario.counterparty_target, scenario.context)
    who = (judge.name, judge.version, rubric_version(scenario.rules))
    content = json.dumps([who, setting, history, request.emotion, request.utterance], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _text(text: str | None) -> str | None:
    """Text that SQLite takes: half a surrogate pair is none."""
    return None if text is None else text.encode("utf-8", "replace").decode()


# ---- claims ----
# Which judgements are being asked for at this moment in this process, so that no two threads pay for the same one.
#
# Claims belong to a file: two `Ledger` objects on one path share them. Other processes do not see them; if two of those
# ask the same thing at once, both pay, and the first score stays.


class InFlightKeys:
    """Keys held by threads. A thread may take again what it holds: a judge may ask the ledger it is asked by."""

    def __init__(self) -> None:
        self._holder: dict[str, int] = {}
        self._freed = threading.Condition()

    def take(self, keys: Collection[str]) -> list[str]:
        """Hold those of the keys that no other thread holds, and return them; never waits."""
        me = threading.get_ident()
        with self._freed:
            free = [key for key in keys if self._holder.get(key, me) == me]
            self._holder.update(dict.fromkeys(free, me))
            return free

    def release(self, keys: Collection[str]) -> None:
        """Let go of keys and wake who waits for them."""
        with self._freed:
            for key in keys:
                self._holder.pop(key, None)
            self._freed.notify_all()

    def wait(self, keys: Collection[str]) -> None:
        """Return once none of the keys is held by another thread."""
        me = threading.get_ident()
        with self._freed:
            self._freed.wait_for(lambda: all(self._holder.get(key, me) == me for key in keys))


_OF_FILE: dict[Path, InFlightKeys] = {}
_GUARD = threading.Lock()


def in_flight_keys(path: Path) -> InFlightKeys:
    """The claims on a file, the same object for the same file."""
    with _GUARD:
        return _OF_FILE.setdefault(path.resolve(), InFlightKeys())


# ---- intake ----
# Verdicts on their way into the ledger: those that were paid for at once, free ones in batches.
#
# A commit that also survives a power cut waits for the disk, several milliseconds each; a commit that survives the end of
# this process does not. So what was paid for is committed as it arrives, and the disk is waited for once a second and at
# the end.

_PAUSE_S = 1.0  # how long a free verdict waits for others, and how often the disk is waited for


class LedgerWriter:
    """Takes one call's verdicts; leaving it, as a context manager, stores what is still waiting.

    Args:
        wanted: key and request of each verdict, in the judge's order.
        batch_size: most free verdicts that wait to be stored together.
        on_judgement: told of each verdict once it is taken.
    """

    def __init__(
        self,
        ledger: Ledger,
        judge: Judge,
        wanted: Sequence[tuple[str, JudgeRequest]],
        batch_size: int,
        on_judgement: OnJudgement | None,
    ) -> None:
        self.ledger, self.judge, self.wanted, self.batch_size = ledger, judge, wanted, batch_size
        self.on_judgement = on_judgement
        self._taken: set[int] = set()
        self._held = {place for place, (_, request) in enumerate(wanted) if request.held is not None}
        self._waiting: list[tuple[int, Judgement]] = []
        self._stored_at = self._safe_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store()
        self.ledger.sync()

    def take(self, place: int, given: Judgement) -> None:
        """The verdict on one request; a second one on the same request is not looked at, unless the first was held."""
        if place in self._taken:
            return
        judgement = valid(given)
        self._waiting.append((place, judgement))
        at_once = judgement.usage.attempts > 0 or place in self._held or judgement.held is not None
        (self._taken if judgement.held is None else self._held).add(place)
        if at_once or len(self._waiting) >= self.batch_size or time.monotonic() - self._stored_at >= _PAUSE_S:
            self._store()
        if self.on_judgement is not None and judgement.held is None:
            self.on_judgement(place, judgement)

    def _store(self) -> None:
        now = time.monotonic()
        share_s = (now - self._stored_at) / max(len(self._waiting), 1)  # of a judge that does not say how long it took
        rows = [
            Row(*self.wanted[place], self.judge, given if place in self._held else _timed(given, share_s))
            for place, given in self._waiting
        ]
        self.ledger.put(rows)
        self._waiting.clear()
        self._stored_at = now
        if now - self._safe_at >= _PAUSE_S:
            self.ledger.sync()
            self._safe_at = now


def valid(given: Judgement) -> Judgement:
    """The judgement as it may be stored: a score outside 1 to 10 is missing, and what is missing has a reason."""
    score = given.score if given.held is None else given.held
    if score is not None and not LOWEST <= score <= HIGHEST:  # true of NaN too
        reason = f"the judge gave {score}, which is not a score from 1 to 10"
        return replace(given, score=None, reason=reason, held=None)
    if given.score is None:
        return replace(given, reason=given.reason or "the judge gave no score and no reason")
    return replace(given, score=float(given.score), reason=None)


def _timed(given: Judgement, share_s: float) -> Judgement:
    if given.usage.latency_s:
        return given
    return replace(given, usage=replace(given.usage, latency_s=share_s))


logger = logging.getLogger(__name__)
OnScore = Callable[[int, float | None], None]


class LedgerJudge:
    """A judge that asks only for what its ledger does not have.

    Args:
        batch_size: most free judgements that wait to be stored together; what was paid for is stored as it arrives.
        offline: ask nobody. What the ledger does not have is missing, and nothing is written.
    """

    def __init__(self, judge: Judge, ledger: Ledger, batch_size: int = 256, offline: bool = False) -> None:
        self.judge, self.ledger, self.batch_size, self.offline = judge, ledger, batch_size, offline
        self._claims = in_flight_keys(ledger.path)

    def scores(self, requests: Sequence[JudgeRequest], on_score: OnScore | None = None) -> list[float | None]:
        """One score a request, in order, None where the judge gave none; all are in the ledger before this returns.

        Args:
            on_score: called once for every request, on the calling thread, as soon as its score is known.
        """
        tell = None if on_score is None else lambda place, judgement: on_score(place, judgement.score)
        return [judgement.score for judgement in self.judgements(requests, tell)]

    def judgements(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """The same with reason, raw reply and usage (that of all tries so far)."""
        call = _Call([judgement_key(self.judge, request) for request in requests], on_judgement)
        call.learn(self.ledger.get(set(call.keys)))
        call.tell(key for key in call.known if call.scored(key))
        wanted = {key: request for key, request in zip(call.keys, requests, strict=True) if not call.scored(key)}
        if self.offline:
            call.give_up(wanted, f"{self.ledger.path} has no judgement of it, and offline=true asks nobody")
        else:
            self._fill(call, wanted)
        found = [call.known[key] for key in call.keys]
        missing = [judgement.reason for judgement in found if judgement.score is None]
        if missing:
            logger.warning("%d of %d judgements are missing; the first: %s", len(missing), len(found), missing[0])
        return found

    def _fill(self, call: "_Call", wanted: dict[str, JudgeRequest]) -> None:
        """Ask for what no other thread is asking for, then wait for what others ask; again, where they failed."""
        while wanted:
            mine = self._claims.take(wanted)
            try:
                news = call.learn(self.ledger.get(mine))  # what came in between our look and our claim
                self._ask(call, [(key, wanted[key]) for key in mine if key not in news])
            finally:
                self._claims.release(mine)
            others = wanted.keys() - set(mine)
            self._claims.wait(others)
            news |= call.learn(self.ledger.get(others))
            call.tell(news)
            wanted = {key: wanted[key] for key in others - news}

    def _ask(self, call: "_Call", wanted: Sequence[tuple[str, JudgeRequest]]) -> None:
        if not wanted:
            return
        keys = [key for key, _ in wanted]
        wanted = [(key, replace(request, held=call.held(key))) for key, request in wanted]

        def arrived(place: int, judgement: Judgement) -> None:
            call.known[keys[place]] = judgement
            call.tell([keys[place]])

        with LedgerWriter(self.ledger, self.judge, wanted, self.batch_size, arrived) as intake:
            answers = self.judge.judge([request for _, request in wanted], intake.take)
            for (place, _), answer in zip(enumerate(wanted), answers, strict=True):
                intake.take(place, answer)  # of a judge that announces nothing
        call.known |= self.ledger.get(keys)  # read back: another process may have been first, and its score counts


class _Call:
    """What one call knows so far, by key; whoever asked is told of every request once."""

    def __init__(self, keys: Sequence[str], on_judgement: OnJudgement | None) -> None:
        self.keys, self.on_judgement = keys, on_judgement
        self.known: dict[str, Judgement] = {}
        self._untold: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            self._untold.setdefault(key, []).append(place)

    def scored(self, key: str) -> bool:
        return key in self.known and self.known[key].score is not None

    def held(self, key: str) -> Judgement | None:
        found = self.known.get(key)
        return found if found is not None and found.held is not None else None

    def learn(self, stored: dict[str, Judgement]) -> set[str]:
        """Take over what the ledger has; returns the keys of which it has news."""
        news = {key for key, found in stored.items() if found.held is None and found != self.known.get(key)}
        self.known |= stored
        return news

    def tell(self, keys: Iterable[str]) -> None:
        if self.on_judgement is not None:
            for key in keys:
                for place in self._untold.pop(key, ()):
                    self.on_judgement(place, self.known[key])

    def give_up(self, keys: Collection[str], reason: str) -> None:
        """Nobody is asked: what is not stored is missing, with the stored reason where there is one."""
        for key in keys:
            self.known.setdefault(key, Judgement(None, reason))
        self.tell(keys)
