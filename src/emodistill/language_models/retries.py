"""When a call is made again, and how long to wait before.

Full jitter: a wait is drawn uniformly from zero to a bound that doubles with every retry, so that clients whom one
outage threw out together do not come back together.

Source: Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog; RFC 9110, 10.2.3 (Retry-After).
"""

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from emodistill.errors import UserError

RETRIED = frozenset({408, 409, 429})  # and every status from 500


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how late.

    Attributes:
        max_retries: calls after the first one, for whatever reason.
        timeout_retries: of these, after a time-out: such a call took long, and may have been paid for.
        base_s, cap_s: bound of the first wait, which doubles up to the cap.
        retry_after_max_s: a server that asks for a longer wait is not waited for.
    """

    max_retries: int = 5
    timeout_retries: int = 1
    base_s: float = 1.0
    cap_s: float = 30.0
    retry_after_max_s: float = 60.0
    rng: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.max_retries, self.timeout_retries, self.base_s, self.cap_s, self.retry_after_max_s) < 0:
            raise UserError(f"{self}: no number of retries and no wait can be negative")

    def wait_s(self, retry: int, retry_after_s: float | None) -> float:
        """Seconds before retry number `retry` (from 0): what the server asks for and some jitter, or jitter alone."""
        if retry_after_s is not None:
            return retry_after_s + self.rng.uniform(0.0, min(self.base_s, self.cap_s))
        return self.rng.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(retry, 60)))


def retried(status: int) -> bool:
    """Whether a call that ended with this HTTP status may succeed when it is made again."""
    return status in RETRIED or status >= 500


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None where it says nothing readable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
