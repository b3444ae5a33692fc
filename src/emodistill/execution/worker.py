"""What happens to a piece in another process: it is done with the kit that is kept there, and failures travel back."""

import ctypes
import errno
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from emodistill import progress
from emodistill.errors import UserError
from emodistill.execution.pieces import Bench, Piece

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_WORKERS = "EMODISTILL_WORKERS"  # in the environment, so that programs which a worker starts know it too
is_worker = False  # whether this process does pieces for another one


@dataclass(frozen=True)
class Failure:
    """How a piece failed, in plain values: exceptions lose their causes on the way between processes.

    Attributes:
        kind: `user` (a mistake of the user), `disk` (it is full), `stopped` (the user stopped it), `bug`.
        words: the sentence of a user's mistake, or the traceback of a bug.
        disk: number, words and file of a full disk.
    """

    kind: str
    words: str = ""
    disk: tuple[int, str, str | None] = (0, "", None)

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        for link in _chain(error):
            if isinstance(link, UserError):
                return cls("user", str(link))
            if isinstance(link, KeyboardInterrupt):
                return cls("stopped")
            if isinstance(link, OSError) and link.errno in FULL_DISK:
                return cls("disk", disk=(link.errno, str(link.strerror), link.filename))
        return cls("bug", "".join(traceback.format_exception(error)))

    def reraise(self, title: str) -> None:
        """Raise in this process what was raised in the other one."""
        if self.kind == "user":
            raise UserError(self.words)
        if self.kind == "stopped":
            raise KeyboardInterrupt
        if self.kind == "disk":
            raise OSError(*self.disk)
        raise RuntimeError(f"{title} failed in its worker:\n{self.words}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


@dataclass(frozen=True)
class Package:
    """A piece on its way to a worker.

    Attributes:
        opener: makes the kit; empty where the worker has it.
        path: where Python finds modules.
    """

    kit: str
    opener: bytes
    task: bytes
    path: tuple[str, ...]

    def do(self, bench: Bench, advance: Any) -> None:
        sys.path += [place for place in self.path if place not in sys.path]
        bench.do(lambda: pickle.loads(self.opener)(), self.kit, pickle.loads(self.task), advance)


class Packer:
    """Packs pieces; the opener of a kit once."""

    def __init__(self) -> None:
        self._openers: dict[str, bytes] = {}

    def pack(self, piece: Piece, kit_is_there: bool = False) -> Package:
        """Raises UserError if the piece cannot leave this process."""
        try:
            if piece.kit not in self._openers:
                self._openers[piece.kit] = pickle.dumps(piece.open)
            opener = b"" if kit_is_there else self._openers[piece.kit]
            return Package(piece.kit, opener, pickle.dumps(piece.task), tuple(sys.path))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"{piece.title} cannot be sent to another process ({error}); give executor.workers=1"
            ) from error


def use_threads(count: int) -> None:
    """Let numerical libraries take so many threads, those that are imported later too."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def processes() -> int:
    """How many processes share the work of one command, this one included: so many share the limits of a server."""
    return int(os.environ.get(_WORKERS, "1"))


def begin_work(threads: int, workers: int) -> None:
    """Make this process one of several workers: it draws no bars of its own."""
    global is_worker
    is_worker = progress.quiet = True
    os.environ[_WORKERS] = str(workers)
    use_threads(threads)


def serve(tasks: Connection, lifeline: Connection, threads: int, workers: int, gpu: str | None) -> None:
    """The main function of a local worker: does packages until there are no more, or the driver is gone.

    Args:
        tasks: brings packages, None at the end; takes back ("step", steps), ("done", None) and ("failed", Failure).
        workers: how many there are.
        lifeline: nothing comes through it, but it ends with the driver, even if that is killed.
        gpu: the only one that it may use, see `machine.gpu_name`; None allows all of them.
    """
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    try:
        signal.signal(signal.SIGINT, _interrupt_once)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # held since before the start of Python
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        begin_work(threads, workers)
        bench = Bench()
        while (package := tasks.recv()) is not None:
            try:
                package.do(bench, lambda steps: tasks.send(("step", steps)))
            except Exception as error:
                tasks.send(("failed", Failure.of(error)))
            else:
                tasks.send(("done", None))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        sys.exit(130)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the end; a process that is started meanwhile begins with it held back."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt_once(*_: object) -> None:
    """A terminal tells all processes that the user stops, and so does the driver: the second time is the same stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(lifeline: Connection) -> None:
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(1)


def die_with_parent() -> None:
    """For `preexec_fn`: the program that follows is killed when this process is (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
