"""The SQLite file under the ledger: made, recognised, written whole or not at all, and its faults put into words."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from emodistill.errors import UserError
from emodistill.judges.ledger_format import APPLICATION_ID, FORMAT, bring_up

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
