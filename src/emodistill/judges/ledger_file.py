"""The SQLite file under the ledger: made, recognised, written whole or not at all, and its faults put into words."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from emodistill.errors import UserError

APPLICATION_ID = 0x454D4F4A  # "EMOJ"; tells our files from other people's databases
SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 60.0
_CREATE = """CREATE TABLE judgements (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, judge_version TEXT NOT NULL, rubric_version TEXT NOT NULL,
    domain TEXT NOT NULL, scenario_id TEXT NOT NULL, emotion TEXT, utterance TEXT NOT NULL,
    score REAL CHECK (score BETWEEN 1 AND 10), reason TEXT, latency_s REAL NOT NULL, judged_at REAL NOT NULL,
    CHECK ((score IS NULL) <> (reason IS NULL))
) WITHOUT ROWID"""


class LedgerFile:
    """One open ledger file. Use it as a context manager, or call `close`.

    Raises:
        UserError: if the file is no ledger, is damaged, or cannot be written. Nothing stored is touched then.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder of the ledger {self.path} cannot be made ({error}); choose another") from error
        with self.explained():
            self.connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            with self.explained():
                self._open()
        except UserError:
            self.connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def _open(self) -> None:
        if not self._is_ledger():  # before anything is written: a stranger's file stays as it is
            with self.transaction():
                if not self._is_ledger():  # another process may have made it meanwhile
                    self.connection.execute(_CREATE)
                    self.connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    self.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._use_write_ahead_log()
        self.connection.execute("PRAGMA synchronous = FULL")  # a stored score outlives a power cut

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
        """True for one of ours, False for an empty file; anything else is a UserError."""
        tables, owner, version = (  # tables first: a process that makes the file now commits all three together
            self.connection.execute(query).fetchone()[0]
            for query in ("SELECT count(*) FROM sqlite_master", "PRAGMA application_id", "PRAGMA user_version")
        )
        if tables == 0 and owner in (0, APPLICATION_ID):
            return False
        if owner != APPLICATION_ID:
            raise UserError(f"{self.path} is a database of something else, not a judge ledger; choose another path")
        if version != SCHEMA_VERSION:
            raise UserError(
                f"the ledger {self.path} has format {version}, this code reads {SCHEMA_VERSION}; choose another path"
            )
        return True

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
