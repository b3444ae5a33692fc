"""Counters of a server in the text format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4)
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass
class Histogram:
    """How many values are at most each bound; `counts` has one place more, for those above all."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[sum(value > bound for bound in self.bounds)] += 1
        self.total += value

    def lines(self, name: str) -> Iterator[str]:
        so_far = 0
        for bound, count in zip((*map(_number, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            yield f'{name}_bucket{{le="{bound}"}} {so_far}'
        yield f"{name}_sum {_number(self.total)}"
        yield f"{name}_count {so_far}"


class Metrics:
    """What a server did since it began.

    Attributes:
        requests: by route and HTTP status.
        replies: by arm.
        refusals: by the code of the error.
        waiting: says how many requests wait for a reply.
        batch: replies that were written together.
        reply_seconds: from the arrival of a request to its reply.
        step_seconds: of writing one batch.
    """

    def __init__(self, waiting: Callable[[], int] = lambda: 0) -> None:
        self.waiting = waiting
        self.requests: Counter[tuple[str, int]] = Counter()
        self.replies: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.vanished = 0
        self.batch, self.reply_seconds = Histogram(SIZES), Histogram(SECONDS)
        self.step_seconds = Histogram(SECONDS)

    def text(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _head("requests_total", "counter", "HTTP requests")
        for (route, status), count in sorted(self.requests.items()):
            yield f'emodistill_requests_total{{route="{route}",status="{status}"}} {count}'
        yield from _head("replies_total", "counter", "replies of an arm")
        for arm, count in sorted(self.replies.items()):
            yield f'emodistill_replies_total{{arm="{_escaped(arm)}"}} {count}'
        yield from _head("refusals_total", "counter", "requests that were refused")
        for code, count in sorted(self.refusals.items()):
            yield f'emodistill_refusals_total{{code="{code}"}} {count}'
        yield from _head("vanished_total", "counter", "clients that left before their reply")
        yield f"emodistill_vanished_total {self.vanished}"
        yield from _head("queue_length", "gauge", "requests that wait for a reply")
        yield f"emodistill_queue_length {self.waiting()}"
        for name, histogram, about in (
            ("batch_size", self.batch, "replies that were written together"),
            ("reply_seconds", self.reply_seconds, "from the arrival of a request to its reply"),
            ("step_seconds", self.step_seconds, "time that one batch took"),
        ):
            yield from _head(name, "histogram", about)
            yield from histogram.lines(f"emodistill_{name}")


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP emodistill_{name} {about}"
    yield f"# TYPE emodistill_{name} {kind}"


def _number(value: float) -> str:
    return f"{value:.9g}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
