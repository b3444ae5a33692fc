"""One process at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emodistill.errors import UserError


@contextmanager
def exclusive(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the lock goes with the process, so a killed run leaves none behind.

    Raises:
        UserError: if another process holds it and `wait` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"{folder} is in use by {holder}; wait for it, or choose another run=...") from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
