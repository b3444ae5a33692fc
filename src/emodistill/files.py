"""Files that several processes may want: written whole or not at all, in folders that one process holds at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from emodistill.errors import UserError


def cache_dir() -> Path:
    """Where downloads and corpora are kept: the environment variable EMODISTILL_CACHE, else `~/.cache/emodistill`."""
    return Path(os.environ.get("EMODISTILL_CACHE") or "~/.cache/emodistill").expanduser()


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the lock goes with the process, so a killed run leaves none behind.

    Raises:
        UserError: if another process holds it and `wait` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path, fallback_to_soft=False)  # a lock file without a real lock would outlive a killed process
    try:
        lock.acquire(blocking=wait)
    except Timeout as error:
        raise UserError(f"{folder} is in use by {_holder(path)}; wait for it, or choose another run=...") from error
    try:
        path.write_text(f"process {os.getpid()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except OSError:  # Windows does not let others read a locked file
        return "another process"
