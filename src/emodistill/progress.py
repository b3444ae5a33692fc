"""Progress on the terminal: one bar, quiet where nobody looks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

quiet = False  # set in processes that work for another one, which shows the progress of all


class Advance(Protocol):
    def __call__(self, steps: float = 1) -> None: ...


@contextmanager
def progress(title: str, total: float) -> Iterator[Advance]:
    """A progress bar of `total` steps on standard error; without a terminal, one line at the start instead."""
    if quiet:
        yield lambda steps=1: None
        return
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        console.print(f"{title} ({total:g})")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps=1: bar.advance(task, steps)
