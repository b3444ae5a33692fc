"""What calls to endpoints cost, and the budget that stops spending in time.

A call is admitted only if everything spent, everything that calls in flight may come to, and the most that this call
may come to stay within the budget together. So one process never exceeds it; several with one file exceed it at most
by what the others have in flight.

Two kinds of calls are counted apart. *Metered*: tokens as the server counted them, in a reply that arrived; this is
the bill, to the token. *Unmetered*: calls that may have been charged but whose bill did not arrive (a time-out, a
connection that broke, a reply cut off); their number is exact, their tokens are an upper bound, which the budget
counts in full.
"""

import json
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
from typing import Any, ClassVar

import yaml
from filelock import lock_descriptor
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from emodistill.errors import UserError

LOCK_POLL_S = 0.001
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Settings(BaseModel):
    """Values of a configuration, immutable and checked when they are made.

    Raises:
        UserError: if a value cannot be meant; it names `section` and key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    section: ClassVar[str]

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise UserError.from_validation(self.section, error) from None


class Price(Settings):
    """Money for a million tokens, in the currency of the price list."""

    section = "price (in money for a million tokens)"
    input: NonNegativeFloat
    output: NonNegativeFloat

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


class PriceList(Settings):
    """The prices that ship, by the name of the model."""

    section = "assets/prices.yaml"
    currency: str
    models: dict[str, Price]


@cache
def _price_list() -> PriceList:
    text = resources.files("emodistill.assets").joinpath("prices.yaml").read_text(encoding="utf-8")
    return PriceList(**yaml.safe_load(text))


def currency() -> str:
    """The currency of the price list, and so of every cost and budget."""
    return _price_list().currency


def price_list() -> dict[str, Price]:
    """The listed prices, by the name of the model."""
    return dict(_price_list().models)


def price_of(model: str, given: Mapping[str, float] | None = None) -> Price | None:
    """The given price, or the listed one of this model (a date at the end of its name is ignored), or None.

    Raises:
        UserError: if the given price is not two numbers, `input` and `output`, from zero.
    """
    if given is not None:
        return Price(**given)
    listed = _price_list().models
    return listed.get(model) or listed.get(_DATED.sub("", model))


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

    def summary(self) -> str:
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
    """The totals of one file, by endpoint, and what this process has in flight; safe for threads and processes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.totals: dict[str, UsageTotals] = {}
        self.in_flight: list[Reservation] = []
        self.lock = threading.RLock()
        self._written: bytes | None = None  # what this process left in the file: unchanged, it need not be parsed

    def refresh(self) -> None:
        """Read the file again: other processes add to it, and a user may have deleted it."""
        if self.path:
            with self.lock:
                self.totals, self._written = read_usage(self.path), None

    def total(self) -> UsageTotals:
        return sum(self.totals.values(), UsageTotals())

    def add(self, name: str, call: UsageTotals) -> None:
        """Record a call, in the file too: at once, so that a kill forgets nothing but calls in flight.

        The file is overwritten in place by one write, which a kill does not divide, and never becomes shorter: this is
        many times as fast as putting a new file in its place, and the event loop waits for it after every call.
        """
        with self.lock:
            if self.path is None:
                self.totals[name] = self.totals.get(name, UsageTotals()) + call
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
            with open(descriptor, "r+b", buffering=0) as file:  # the lock goes with the descriptor
                _lock(descriptor, self.path)
                before = file.read()
                if before != self._written:
                    self.totals = _parse(before, self.path)
                self.totals[name] = self.totals.get(name, UsageTotals()) + call
                self._written = _text(self.totals).ljust(len(before))
                file.seek(0)
                file.write(self._written)


@cache
def usage_log(path: Path) -> UsageLog:
    """The one log of a file in this process, so that several endpoints share what is reserved."""
    return UsageLog(path)


def read_usage(path: Path) -> dict[str, UsageTotals]:
    """The totals in a file, by endpoint; none where there is no file.

    Raises:
        UserError: if it is damaged.
    """
    try:
        with open(path, "rb") as file:
            _lock(file.fileno(), path)
            return _parse(file.read(), path)
    except FileNotFoundError:
        return {}


def _lock(descriptor: int, path: Path) -> None:
    """Wait until no other process has the file.

    Raises:
        UserError: if its disk knows no locks, as some of the network.
    """
    try:
        lock_descriptor(descriptor, poll_interval=LOCK_POLL_S)
    except OSError as error:
        raise UserError(
            f"{path} cannot be locked ({error.strerror}), so several processes could not share a budget; put it on "
            "another disk with endpoint.spending.path=..."
        ) from error


def _text(totals: dict[str, UsageTotals]) -> bytes:
    """One endpoint a line; indentation by `json` would take longer than everything else here."""
    lines = (f"{json.dumps(name)}: {json.dumps(vars(totals[name]))}" for name in sorted(totals))
    return ("{\n" + ",\n".join(lines) + "\n}").encode()


def _parse(content: bytes, path: Path) -> dict[str, UsageTotals]:
    try:
        return {name: UsageTotals(**sums) for name, sums in json.loads(content or b"{}").items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; delete it, which forgets what was spent, or put a copy back") from error


class Budget(Settings):
    """The most that may be spent; None is no limit. `max_cost` is in the currency of the price list."""

    section = "spending"
    max_cost: NonNegativeFloat | None = None
    max_tokens: NonNegativeInt | None = None

    def covers(self, tokens: int, cost: float) -> bool:
        return (self.max_tokens is None or tokens <= self.max_tokens) and (
            self.max_cost is None or cost <= self.max_cost
        )


class Spending:
    """The usage log of an endpoint and its budget.

    Args:
        path: the file; None keeps the totals in memory. Endpoints with the same file spend from one purse.
        max_cost: money, in the currency of the price list; None is no limit.
        max_tokens: tokens read and written; None is no limit.
    """

    def __init__(self, path: str | None = None, max_cost: float | None = None, max_tokens: int | None = None) -> None:
        self.budget = Budget(max_cost=max_cost, max_tokens=max_tokens)
        self.log = usage_log(Path(path).absolute()) if path else UsageLog(None)
        self.log.refresh()

    def __reduce__(self) -> tuple[type["Spending"], tuple[Any, ...]]:
        """Sent to another process, it spends from the same file there."""
        return Spending, (str(self.log.path) if self.log.path else None, self.budget.max_cost, self.budget.max_tokens)

    def reserve(self, wanted: Reservation) -> bool | None:
        """Set aside what a call may come to; None: not now, perhaps once calls in flight are settled; False: no."""
        with self.log.lock:
            if not self._fits([wanted]):
                return False
            if not self._fits([wanted, *self.log.in_flight]):
                return None
            self.log.in_flight.append(wanted)
            return True

    def settle(self, name: str, reserved: Reservation, call: UsageTotals) -> None:
        """Give back what was set aside and record what the call came to."""
        with self.log.lock:
            self.log.in_flight.remove(reserved)
            if call != UsageTotals():
                self.log.add(name, call)

    def of(self, name: str) -> UsageTotals:
        """What one endpoint came to, earlier runs with the same file included."""
        return self.log.totals.get(name, UsageTotals())

    def state(self) -> str:
        """What is spent of what may be, for a message."""
        spent, (money, tokens) = self.log.total(), (self.budget.max_cost, self.budget.max_tokens)
        parts = [] if money is None else [f"{currency()} {spent.most_cost:.4f} of max_cost={money:g}"]
        parts += [] if tokens is None else [f"{spent.most_tokens:,} of max_tokens={tokens:,}"]
        return " and ".join(parts)

    def _fits(self, more: list[Reservation]) -> bool:
        spent = self.log.total()
        tokens = spent.most_tokens + sum(each.tokens for each in more)
        return self.budget.covers(tokens, spent.most_cost + sum(each.cost for each in more))


@contextmanager
def billed(path: Path) -> Iterator[None]:
    """Print, at the end of what stands in it, what that came to; nothing where no endpoint was called."""
    before = read_usage(path)
    try:
        yield
    finally:
        after = read_usage(path)
        for name in sorted(after):
            if (now := after[name] - before.get(name, UsageTotals())) != UsageTotals():
                print(f"{name}: {now.summary()}")
                if name in before:
                    print(f"  with what {path} had before: {after[name].summary()}")
