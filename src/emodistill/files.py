"""Files that several processes may want: written whole or not at all, in folders that one process holds at a time."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout, lock_descriptor

from emodistill.errors import UserError

CHECKSUMS = "checksums.json"
PART_BYTES = 2**24  # of a file that is hashed
_HELD: set[Path] = set()  # by this process; on some disks of the network, to look at a lock of one's own lets go of it


def cache_dir() -> Path:
    """Where downloads and corpora are kept: the environment variable EMODISTILL_CACHE, else `~/.cache/emodistill`."""
    return Path(os.environ.get("EMODISTILL_CACHE") or "~/.cache/emodistill").expanduser()


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C is ten times as fast
    """PyYAML's safe loader, except that a key given twice is an error; PyYAML itself keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(keys) > len(set(keys)):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"the key '{twice}' is given twice, from line {node.start_mark.line + 1} on")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def load_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises:
        yaml.YAMLError: if it is not valid YAML, or gives a key twice.
    """
    return yaml.load(text, _Loader)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex digits.

    It is read in large parts: after each, a thread has to wait for the others, which may be importing modules.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        part = bytearray(min(max(path.stat().st_size, 1), PART_BYTES))
        while length := file.readinto(part):
            digest.update(memoryview(part)[:length])
    return digest.hexdigest()


def seal(folder: Path) -> None:
    """Note the hash of every file in a folder, for `is_whole`."""
    checksums = {path.name: file_hash(path) for path in folder.iterdir()}
    atomic_write(folder / CHECKSUMS, json.dumps(checksums, indent=2) + "\n")


def is_whole(folder: Path) -> bool:
    """Whether a sealed folder is there, and holds every byte that was written to it."""
    try:
        noted: dict[str, str] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(noted) and all(file_hash(folder / name) == checksum for name, checksum in noted.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
        return False


@contextmanager
def updating(path: Path) -> Iterator[None]:
    """Hold a file while it is read and written anew; others that do the same wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False):
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or a folder whole or not at all: yields where to write, and moves it to `path` at the end.

    What was at `path` stays until then, and stays where writing fails.
    """
    partial = path.with_name(path.name + ".partial")
    if partial.is_dir():
        _remove(partial)  # of a process that was killed; a file is overwritten
    try:
        yield partial
        if partial.is_dir() and path.exists():  # no system replaces a folder that is not empty
            _remove(path)
        partial.replace(path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


def in_use(folder: Path) -> bool:
    """Whether somebody holds a folder, as `exclusive` does; this process counts too."""
    path = folder / ".lock"
    if not path.is_file():
        return False
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except OSError:  # Windows does not let others read a locked file
        return "another process"


@contextmanager
def held(path: Path, way_out: str) -> Iterator[None]:
    """Hold a file that is made for it, under a name of its own, and removed at the end: see `is_held`.

    Args:
        way_out: end of the sentence that a disk without locks ends in.

    Raises:
        UserError: if the file cannot be made or locked.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        lock_descriptor(descriptor)
    except OSError as error:
        raise UserError(
            f"{path} cannot be locked ({error.strerror}), which processes that share a folder need; {way_out}"
        ) from error
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        os.close(descriptor)  # first: some systems do not remove what is open
        path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a process holds this file, as `held` does; one that has died holds none."""
    if path in _HELD:
        return True
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not lock_descriptor(descriptor, blocking=False)
    finally:
        os.close(descriptor)
