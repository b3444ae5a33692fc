"""How fast an endpoint may be asked: calls at a time, calls a minute, tokens a minute.

Only the thread of the event loop touches what is here.
"""

import asyncio
import time
from dataclasses import dataclass

from emodistill.errors import UserError


@dataclass(frozen=True)
class Traffic:
    """Limits of one endpoint; None is no limit."""

    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"traffic.{name}={value} lets nothing through; give a positive number or null")


@dataclass(frozen=True)
class Timeouts:
    """Seconds that one call may take.

    Attributes:
        connect_s: until the connection stands.
        first_byte_s: until the first byte of the answer, and between two of them. A server that does not stream sends
            its first byte when the whole reply is written, so this bounds the generation.
        whole_s: from beginning to end of the call.
    """

    connect_s: float = 10.0
    first_byte_s: float = 120.0
    whole_s: float = 180.0

    def __post_init__(self) -> None:
        if min(self.connect_s, self.first_byte_s, self.whole_s) <= 0:
            raise UserError(f"{self}: every time-out is a positive number of seconds")


class Bucket:
    """A token bucket that holds one second's worth, so a minute's allowance is spread over the minute.

    What is larger than the bucket waits until it is full and leaves a debt, so nothing waits for ever.
    First come, first served.
    """

    def __init__(self, per_minute: float) -> None:
        self.rate_s = per_minute / 60.0
        self.capacity = max(1.0, self.rate_s)
        self._level, self._at, self._turn = self.capacity, time.monotonic(), asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Wait until so much may go."""
        async with self._turn:
            while (missing := min(amount, self.capacity) - self._refilled()) > 1e-9:
                await asyncio.sleep(missing / self.rate_s)
            self._level -= amount

    def give_back(self, amount: float) -> None:
        """Correct an estimate that was too high by `amount`, or too low where that is negative."""
        self._level = min(self.capacity, self._refilled() + amount)

    def _refilled(self) -> float:
        now = time.monotonic()
        self._level = min(self.capacity, self._level + (now - self._at) * self.rate_s)
        self._at = now
        return self._level


class Gate:
    """What a call passes before it is made: a slot, then its share of calls and tokens a minute."""

    def __init__(self, traffic: Traffic) -> None:
        self.slots = asyncio.Semaphore(traffic.concurrency)
        self._requests = Bucket(traffic.requests_per_minute) if traffic.requests_per_minute else None
        self._tokens = Bucket(traffic.tokens_per_minute) if traffic.tokens_per_minute else None

    async def admit(self, tokens: int) -> None:
        """Wait for the rates; `tokens` is an estimate of what the call will take."""
        if self._requests:
            await self._requests.take(1)
        if self._tokens:
            await self._tokens.take(tokens)

    def correct(self, estimated: int, taken: int) -> None:
        """Say what the call took in truth."""
        if self._tokens:
            self._tokens.give_back(estimated - taken)
