"""What calls to endpoints cost, and the budget that stops spending in time.

A call is admitted only if everything spent, everything that calls in flight may come to, and the most that this call
may come to stay within the budget together. All this is in one file, so several processes never exceed it either.

Two kinds of calls are counted apart. *Metered*: tokens as the server counted them, in a reply that arrived; this is
the bill, to the token. *Unmetered*: calls that may have been charged but whose bill did not arrive (a time-out, a
connection that broke, a reply cut off, a process that was killed while it waited); their number is exact, their tokens
are an upper bound, which the budget counts in full.
"""

import json
import operator
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import yaml
from filelock import lock_descriptor
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from emodistill.errors import UserError
from emodistill.files import held, is_held

LOCK_POLL_S = 0.001
LOOK_S = 1.0  # how often a process looks whether the others that have calls in flight are alive
IN_FLIGHT = "in flight"  # key of the file, beside the names of endpoints
_PATH_KEY = "endpoint.spending.path=..."
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

    def unbilled(self) -> UsageTotals:
        """The call as it counts without a bill."""
        return UsageTotals(1, unmetered_calls=1, unmetered_tokens=self.tokens, unmetered_cost=self.cost)


InFlight = dict[str, dict[str, UsageTotals]]  # process -> endpoint -> its calls in flight, as they count without a bill


class UsageLog:
    """The totals of one file, by endpoint, and what is in flight; safe for threads and processes.

    A process with calls in flight holds a file beside it, so that others see when it has died (`files.held`). Its calls
    then count as calls without a bill.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.totals: dict[str, UsageTotals] = {}
        self.in_flight: InFlight = {}
        self.lock = threading.RLock()
        self._written: bytes | None = None  # what this process left in the file: unchanged, it need not be parsed
        self._looked_at = float("-inf")
        self._begin_as(os.getpid())

    def refresh(self) -> None:
        """Read the file again: other processes add to it, and a user may have deleted it."""
        if self.path:
            with self.lock:
                self.totals, self.in_flight = _read(self.path)
                self._written = None

    def total(self) -> UsageTotals:
        return sum(self.totals.values(), UsageTotals())

    def flying(self) -> UsageTotals:
        """What all calls in flight may come to."""
        return sum((calls for own in self.in_flight.values() for calls in own.values()), UsageTotals())

    def begin(self, name: str, reserved: Reservation) -> None:
        """Note a call in flight; the log must be `opened`."""
        if self._pid != os.getpid():
            self._begin_as(os.getpid())  # of a fork
        if self.path and self.owner not in self.in_flight:
            self._life.enter_context(
                held(_life_file(self.path, self.owner), "put it on another disk with " + _PATH_KEY)
            )
        own = self.in_flight.setdefault(self.owner, {})
        own[name] = own.get(name, UsageTotals()) + reserved.unbilled()

    def end(self, name: str, reserved: Reservation, call: UsageTotals) -> None:
        """Record what a call in flight came to."""
        with self.lock:
            with self.opened():
                if call != UsageTotals():
                    self.totals[name] = self.totals.get(name, UsageTotals()) + call
                own = self.in_flight.get(self.owner, {})  # empty where the file was deleted meanwhile
                if name in own and (left := own.pop(name) - reserved.unbilled()).calls > 0:
                    own[name] = left
                if not own:
                    self.in_flight.pop(self.owner, None)
            if self.owner not in self.in_flight:
                self._life.close()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the file and know what it says; what is changed meanwhile is in it at the end, whatever happens then.

        The file is overwritten in place by one write, which a kill does not divide, and never becomes shorter: this is
        many times as fast as putting a new file in its place, and the event loop waits for it with every call.
        """
        with self.lock:
            if self.path is None:
                yield
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
            with open(descriptor, "r+b", buffering=0) as file:  # the lock goes with the descriptor
                _lock(descriptor, self.path)
                before = file.read()
                if before != self._written:
                    self.totals, self.in_flight = _parse(before, self.path)
                self._written = None
                self._count_the_dead()
                yield
                after = _text(self.totals, self.in_flight).ljust(len(before))
                if after != before:
                    file.seek(0)
                    file.write(after)
                self._written = after

    def _count_the_dead(self) -> None:
        if self.path and time.monotonic() - self._looked_at >= LOOK_S:
            self._looked_at = time.monotonic()
            for owner in _count_the_dead(self.path, self.totals, self.in_flight, self.owner):
                _life_file(self.path, owner).unlink(missing_ok=True)

    def _begin_as(self, pid: int) -> None:
        self._pid, self.owner, self._life = pid, uuid.uuid4().hex, ExitStack()


@cache
def usage_log(path: Path) -> UsageLog:
    """The one log of a file in this process, so that several endpoints share what is reserved."""
    return UsageLog(path)


def read_usage(path: Path) -> dict[str, UsageTotals]:
    """The totals in a file, by endpoint, calls of the dead included; none where there is no file.

    Raises:
        UserError: if it is damaged.
    """
    totals, in_flight = _read(path)
    _count_the_dead(path, totals, in_flight)
    return totals


def _count_the_dead(path: Path, totals: dict[str, UsageTotals], in_flight: InFlight, own: str = "") -> list[str]:
    """Add the calls of processes that died while they were in flight, for they may have been charged; whose they are.

    Args:
        own: the process that need not be looked at.
    """
    dead = [owner for owner in in_flight if owner != own and not is_held(_life_file(path, owner))]
    for owner in dead:
        for name, calls in in_flight.pop(owner).items():
            totals[name] = totals.get(name, UsageTotals()) + calls
    return dead


def _life_file(path: Path, owner: str) -> Path:
    return path.with_name(f"{path.name}-asking-{owner}")


def _read(path: Path) -> tuple[dict[str, UsageTotals], InFlight]:
    try:
        with open(path, "rb") as file:
            _lock(file.fileno(), path)
            return _parse(file.read(), path)
    except FileNotFoundError:
        return {}, {}


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
            f"another disk with {_PATH_KEY}"
        ) from error


def _text(totals: dict[str, UsageTotals], in_flight: InFlight) -> bytes:
    """One endpoint a line; indentation by `json` would take longer than everything else here."""
    lines = [f"{json.dumps(name)}: {json.dumps(vars(totals[name]))}" for name in sorted(totals)]
    if in_flight:
        calls = {owner: {name: vars(one) for name, one in own.items()} for owner, own in sorted(in_flight.items())}
        lines.append(f"{json.dumps(IN_FLIGHT)}: {json.dumps(calls)}")
    return ("{\n" + ",\n".join(lines) + "\n}").encode()


def _parse(content: bytes, path: Path) -> tuple[dict[str, UsageTotals], InFlight]:
    try:
        found = json.loads(content or b"{}")
        in_flight = {owner: _totals(own) for owner, own in found.pop(IN_FLIGHT, {}).items()}
        return _totals(found), in_flight
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; delete it, which forgets what was spent, or put a copy back") from error


def _totals(found: dict[str, dict[str, Any]]) -> dict[str, UsageTotals]:
    return {name: UsageTotals(**sums) for name, sums in found.items()}


class Budget(Settings):
    """The most that may be spent; None is no limit. `max_cost` is in the currency of the price list."""

    section = "spending"
    max_cost: NonNegativeFloat | None = None
    max_tokens: NonNegativeInt | None = None

    def covers(self, spent: UsageTotals) -> bool:
        return (self.max_tokens is None or spent.most_tokens <= self.max_tokens) and (
            self.max_cost is None or spent.most_cost <= self.max_cost
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

    def reserve(self, name: str, wanted: Reservation) -> bool | None:
        """Set aside what a call may come to; None: not now, perhaps once calls in flight are settled; False: no."""
        with self.log.opened():
            after = self.log.total() + wanted.unbilled()
            if not self.budget.covers(after):
                return False
            if not self.budget.covers(after + self.log.flying()):
                return None
            self.log.begin(name, wanted)
            return True

    def settle(self, name: str, reserved: Reservation, call: UsageTotals) -> None:
        """Give back what was set aside and record what the call came to, in one step."""
        self.log.end(name, reserved, call)

    def of(self, name: str) -> UsageTotals:
        """What one endpoint came to, earlier runs with the same file included."""
        return self.log.totals.get(name, UsageTotals())

    def state(self) -> str:
        """What is spent of what may be, for a message."""
        spent, (money, tokens) = self.log.total(), (self.budget.max_cost, self.budget.max_tokens)
        parts = [] if money is None else [f"{currency()} {spent.most_cost:.4f} of max_cost={money:g}"]
        parts += [] if tokens is None else [f"{spent.most_tokens:,} of max_tokens={tokens:,}"]
        return " and ".join(parts)


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
