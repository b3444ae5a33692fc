"""What endpoints were paid, kept in a small file. Two kinds of entries are kept apart:

- *metered*: tokens as the server counted them, in a reply that arrived. This is the bill, to the token.
- *unmetered*: calls that may have been charged but whose bill did not arrive (a time-out, a connection that broke, a
  reply cut off). Their number is exact, their tokens are an upper bound.
"""

import fcntl
import json
import operator
import os
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from emodistill.errors import UserError
from emodistill.language_models.prices import currency


@dataclass(frozen=True)
class Tally:
    """A sum of calls; costs are zero for a model without a price."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unmetered_calls: int = 0
    unmetered_tokens: int = 0
    unmetered_cost: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*map(operator.add, vars(self).values(), vars(other).values()))

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(*map(operator.sub, vars(self).values(), vars(other).values()))

    @property
    def most_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.unmetered_tokens

    @property
    def most_cost(self) -> float:
        return self.cost + self.unmetered_cost

    def words(self) -> str:
        """One line for people."""
        line = f"{self.calls:,} calls, {self.prompt_tokens:,} tokens read, {self.completion_tokens:,} written"
        line += f", {currency()} {self.cost:.4f}" if self.most_cost else ", no price known"
        if self.unmetered_calls:
            most = f", {currency()} {self.unmetered_cost:.4f}" if self.unmetered_cost else ""
            line += f"; {self.unmetered_calls:,} of them without a bill, at most {self.unmetered_tokens:,} tokens{most}"
        return line


@dataclass(frozen=True)
class Reservation:
    """The most that one call may come to."""

    tokens: int
    cost: float


class Account:
    """The sums of one file, by endpoint, and what this process has in flight; safe for threads and processes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.tallies: dict[str, Tally] = {}
        self.flying: list[Reservation] = []
        self.lock = threading.RLock()
        self._written: bytes | None = None  # what this process left in the file: unchanged, it need not be parsed

    def refresh(self) -> None:
        """Read the file again: other processes add to it, and a user may have deleted it."""
        if self.path:
            with self.lock:
                self.tallies, self._written = read_tallies(self.path), None

    def total(self) -> Tally:
        return sum(self.tallies.values(), Tally())

    def add(self, name: str, tally: Tally) -> None:
        """Record a call, in the file too: at once, so that a kill forgets nothing but calls in flight.

        The file is overwritten in place by one write, which a kill does not divide, and never becomes shorter: this is
        many times as fast as putting a new file in its place, and the event loop waits for it after every call.
        """
        with self.lock:
            if self.path is None:
                self.tallies[name] = self.tallies.get(name, Tally()) + tally
                return
            with open(_opened(self.path), "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                before = file.read()
                if before != self._written:
                    self.tallies = _parsed(before, self.path)
                self.tallies[name] = self.tallies.get(name, Tally()) + tally
                self._written = _text(self.tallies).ljust(len(before))
                os.pwrite(file.fileno(), self._written, 0)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _text(tallies: dict[str, Tally]) -> bytes:
    """One endpoint a line; indentation by `json` would take longer than everything else here."""
    lines = (f"{json.dumps(name)}: {json.dumps(vars(tallies[name]))}" for name in sorted(tallies))
    return ("{\n" + ",\n".join(lines) + "\n}").encode()


@cache
def account(path: Path) -> Account:
    """The one account of a file in this process, so that several endpoints share what is reserved."""
    return Account(path)


def read_tallies(path: Path) -> dict[str, Tally]:
    """The sums in a file, by endpoint; none where there is no file.

    Raises:
        UserError: if it is damaged.
    """
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return _parsed(file.read(), path)
    except FileNotFoundError:
        return {}


def _parsed(content: bytes, path: Path) -> dict[str, Tally]:
    try:
        return {name: Tally(**sums) for name, sums in json.loads(content or b"{}").items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; delete it, which forgets what was spent, or put a copy back") from error
