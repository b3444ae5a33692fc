"""A circuit breaker: an endpoint that keeps failing is left alone for a while, and then tried with one request.

Without it, every one of ten thousand judgements would go through all its retries against a server that is gone. What
counts is a request that was *given up*, after its retries: a short restart of a server is bridged by them and opens
nothing. Refusals that speak of one request (too long, too fast) do not count, and any reply closes the circuit.
"""

import time
from typing import Literal

from emodistill.errors import UserError

Pass = Literal["closed", "probe"]


class CircuitBreaker:
    """Closed, open, and half open while its one probe is under way.

    Args:
        failures: requests given up in a row that open it.
        cooldown_s: how long it stays open before a probe.
    """

    def __init__(self, failures: int = 5, cooldown_s: float = 30.0) -> None:
        if failures < 1 or cooldown_s < 0:
            raise UserError(f"breaker: failures={failures} has to be positive, cooldown_s={cooldown_s} not negative")
        self.failures, self.cooldown_s = failures, cooldown_s
        self._in_a_row = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def open(self) -> bool:
        return self._opened_at is not None

    @property
    def probe_in_s(self) -> float:
        """Seconds until the next probe may go."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self.cooldown_s - time.monotonic())

    def admits(self) -> Pass | None:
        """How a call may be made now: as any other, or as the probe; None where it may not."""
        if not self.open:
            return "closed"
        if self._probing or self.probe_in_s > 0:
            return None
        self._probing = True
        return "probe"

    def succeeded(self) -> None:
        """A call was answered."""
        self._in_a_row, self._opened_at, self._probing = 0, None, False

    def failed(self, as_what: Pass) -> None:
        """A request was given up for a reason that says something of the server."""
        self._in_a_row += 1
        if as_what == "probe" or (self._in_a_row >= self.failures and not self.open):
            self._opened_at = time.monotonic()
        self.left(as_what)

    def left(self, as_what: Pass) -> None:
        """A request ended without saying anything of the server; if it was the probe, another may go."""
        if as_what == "probe":
            self._probing = False
