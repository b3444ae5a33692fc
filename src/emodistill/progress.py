"""Progress on the terminal: one bar; without a terminal, some lines."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINES = 10  # at most, where there is no terminal
APART_S = 10.0  # seconds, at least, between two of these lines
quiet = False  # set in processes that work for another one, which shows the progress of all


class Advance(Protocol):
    def __call__(self, steps: float = 1) -> None: ...


@contextmanager
def progress(title: str, total: float) -> Iterator[Advance]:
    """A progress bar of `total` steps on standard error; without a terminal, a line at about every tenth of them."""
    if quiet:
        yield lambda steps=1: None
        return
    if not sys.stderr.isatty():
        print(f"{title} ({total:g})", file=sys.stderr, flush=True)
        yield _lines(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps=1: bar.advance(task, steps)


def _lines(title: str, total: float) -> Advance:
    began = shown_at = time.monotonic()
    done = shown = 0.0

    def advance(steps: float = 1) -> None:
        nonlocal done, shown, shown_at
        done += steps
        now = time.monotonic()
        if done >= total or done - shown < total / LINES or now - shown_at < APART_S:
            return
        shown, shown_at = done, now
        past, left = (timedelta(seconds=round(s)) for s in (now - began, (now - began) * (total / done - 1)))
        print(f"{title}: {done:.0f}/{total:.0f}, {past} elapsed, {left} left", file=sys.stderr, flush=True)

    return advance
