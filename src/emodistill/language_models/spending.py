"""The budget that stops spending in time.

A call is admitted only if everything spent, everything that calls in flight may come to, and the most that this call
may come to stay within the budget together. So one process never exceeds it; several with one file exceed it at most
by what the others have in flight. Calls whose bill never came count with their upper bound.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emodistill.errors import UserError
from emodistill.language_models.accounts import Account, Reservation, Tally, account, read_tallies
from emodistill.language_models.prices import currency


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
        self.account = account(Path(path).absolute()) if path else Account(None)
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

    def settle(self, name: str, reserved: Reservation, tally: Tally) -> None:
        """Give back what was set aside and record what the call came to."""
        with self.account.lock:
            self.account.flying.remove(reserved)
            if tally != Tally():
                self.account.add(name, tally)

    @property
    def limits_cost(self) -> bool:
        return self.max_cost != math.inf

    def of(self, name: str) -> Tally:
        """What one endpoint came to, earlier runs with the same file included."""
        return self.account.tallies.get(name, Tally())

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
            if (now := after[name] - before.get(name, Tally())) != Tally():
                print(f"{name}: {now.words()}")
                if name in before:
                    print(f"  with what {path} had before: {after[name].words()}")
