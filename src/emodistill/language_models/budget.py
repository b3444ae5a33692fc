"""The budget that stops spending in time.

A call is admitted only if everything spent, everything that calls in flight may come to, and the most that this call
may come to stay within the budget together. So one process never exceeds it; several with one file exceed it at most
by what the others have in flight. Calls whose bill never came count with their upper bound.
"""

import fcntl
import json
import math
import operator
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from emodistill.errors import UserError

# ---- prices ----
# What a model costs a token: from the price list that ships (`assets/prices.yaml`), or from the configuration.

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class Price:
    """Money for a million tokens, in the currency of the price list."""

    input: float
    output: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def price_of(model: str, given: Mapping[str, float] | None = None) -> Price | None:
    """The given price, or the listed one of this model (a date at the end of its name is ignored), or None.

    Raises:
        UserError: if the given price is not two numbers, `input` and `output`, from zero.
    """
    if given is None:
        listed = _listed()
        return listed.get(model) or listed.get(_DATED.sub("", model))
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float) and value >= 0}
    if numbers.keys() != {"input", "output"} or len(given) != 2:
        raise UserError(f"price={dict(given)}: give input and output in money for a million tokens, or null")
    return Price(float(given["input"]), float(given["output"]))


def currency() -> str:
    """The currency of the price list, and so of every cost and budget."""
    return str(_file()["currency"])


@cache
def _listed() -> dict[str, Price]:
    return {str(model): Price(float(each["input"]), float(each["output"])) for model, each in _file()["models"].items()}


@cache
def _file() -> dict[str, dict[str, dict[str, float]]]:
    text = resources.files("emodistill.assets").joinpath("prices.yaml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, dict[str, float]]] = yaml.safe_load(text)
    return loaded


# ---- accounts ----
# What endpoints were paid, kept in a small file. Two kinds of entries are kept apart:
#
# - *metered*: tokens as the server counted them, in a reply that arrived. This is the bill, to the token.
# - *unmetered*: calls that may have been charged but whose bill did not arrive (a time-out, a connection that broke, a
#   reply cut off). Their number is exact, their tokens are an upper bound.


@dataclass(frozen=True)
class UsageTotals:
    """A sum of calls; costs are zero for a model without a price."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unmetered_calls: int = 0
    unmetered_tokens: int = 0
    unmetered_cost: float = 0.0

    def __add__(self, other: "UsageTotals") -> "UsageTotals":
        return UsageTotals(*map(operator.add, vars(self).values(), vars(other).values()))

    def __sub__(self, other: "UsageTotals") -> "UsageTotals":
        return UsageTotals(*map(operator.sub, vars(self).values(), vars(other).values()))

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


class UsageLog:
    """The sums of one file, by endpoint, and what this process has in flight; safe for threads and processes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.tallies: dict[str, UsageTotals] = {}
        self.flying: list[Reservation] = []
        self.lock = threading.RLock()
        self._written: bytes | None = None  # what this process left in the file: unchanged, it need not be parsed

    def refresh(self) -> None:
        """Read the file again: other processes add to it, and a user may have deleted it."""
        if self.path:
            with self.lock:
                self.tallies, self._written = read_tallies(self.path), None

    def total(self) -> UsageTotals:
        return sum(self.tallies.values(), UsageTotals())

    def add(self, name: str, tally: UsageTotals) -> None:
        """Record a call, in the file too: at once, so that a kill forgets nothing but calls in flight.

        The file is overwritten in place by one write, which a kill does not divide, and never becomes shorter: this is
        many times as fast as putting a new file in its place, and the event loop waits for it after every call.
        """
        with self.lock:
            if self.path is None:
                self.tallies[name] = self.tallies.get(name, UsageTotals()) + tally
                return
            with open(_opened(self.path), "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                before = file.read()
                if before != self._written:
                    self.tallies = _parsed(before, self.path)
                self.tallies[name] = self.tallies.get(name, UsageTotals()) + tally
                self._written = _text(self.tallies).ljust(len(before))
                os.pwrite(file.fileno(), self._written, 0)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _text(tallies: dict[str, UsageTotals]) -> bytes:
    """One endpoint a line; indentation by `json` would take longer than everything else here."""
    lines = (f"{json.dumps(name)}: {json.dumps(vars(tallies[name]))}" for name in sorted(tallies))
    return ("{\n" + ",\n".join(lines) + "\n}").encode()


@cache
def account(path: Path) -> UsageLog:
    """The one account of a file in this process, so that several endpoints share what is reserved."""
    return UsageLog(path)


def read_tallies(path: Path) -> dict[str, UsageTotals]:
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


def _parsed(content: bytes, path: Path) -> dict[str, UsageTotals]:
    try:
        return {name: UsageTotals(**sums) for name, sums in json.loads(content or b"{}").items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; delete it, which forgets what was spent, or put a copy back") from error


class Spending:
    """The account of an endpoint and its budget.

    Args:
        path: the file; None keeps the sums in memory. Endpoints with the same file spend from one purse.
        max_cost: money, in the currency of the price list; None is no limit.
        max_tokens: tokens read and written; None is no limit.
    """

    def __init__(self, path: str | None = None, max_cost: float | None = None, max_tokens: int | None = None) -> None:
        for name, value in (("max_cost", max_cost), ("max_tokens", max_tokens)):
            if value is not None and value < 0:
                raise UserError(f"spending.{name}={value} is negative; give a number from 0, or null for no limit")
        self.account = account(Path(path).absolute()) if path else UsageLog(None)
        self.account.refresh()
        self.max_cost = math.inf if max_cost is None else max_cost
        self.max_tokens = math.inf if max_tokens is None else max_tokens

    def reserve(self, wanted: Reservation) -> bool | None:
        """Set aside what a call may come to; None: not now, perhaps once calls in flight are settled; False: no."""
        with self.account.lock:
            if not self._fits([wanted]):
                return False
            if not self._fits([wanted, *self.account.flying]):
                return None
            self.account.flying.append(wanted)
            return True

    def settle(self, name: str, reserved: Reservation, tally: UsageTotals) -> None:
        """Give back what was set aside and record what the call came to."""
        with self.account.lock:
            self.account.flying.remove(reserved)
            if tally != UsageTotals():
                self.account.add(name, tally)

    @property
    def limits_cost(self) -> bool:
        return self.max_cost != math.inf

    def of(self, name: str) -> UsageTotals:
        """What one endpoint came to, earlier runs with the same file included."""
        return self.account.tallies.get(name, UsageTotals())

    def budget(self) -> str:
        """What is spent of what may be, for a message."""
        spent = self.account.total()
        money = "" if not self.limits_cost else f"{currency()} {spent.most_cost:.4f} of max_cost={self.max_cost:g}"
        tokens = "" if self.max_tokens == math.inf else f"{spent.most_tokens:,} of max_tokens={self.max_tokens:,}"
        return " and ".join(filter(None, (money, tokens)))

    def _fits(self, more: list[Reservation]) -> bool:
        spent = self.account.total()
        tokens = spent.most_tokens + sum(each.tokens for each in more)
        return tokens <= self.max_tokens and spent.most_cost + sum(each.cost for each in more) <= self.max_cost


@contextmanager
def billed(path: Path) -> Iterator[None]:
    """Print, at the end of what stands in it, what that came to; nothing where no endpoint was called."""
    before = read_tallies(path)
    try:
        yield
    finally:
        after = read_tallies(path)
        for name in sorted(after):
            if (now := after[name] - before.get(name, UsageTotals())) != UsageTotals():
                print(f"{name}: {now.words()}")
                if name in before:
                    print(f"  with what {path} had before: {after[name].words()}")
