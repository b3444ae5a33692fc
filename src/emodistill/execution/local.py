"""The default executor: processes on this machine, as many as it has cores and memory for.

One worker, or work that is not worth another process, is done in this process. Workers are started with `spawn`, one
after the other as memory allows. A worker keeps its kit (a loaded model) between pieces; `Dispatch` says which piece it
gets. It ends with the driver, however that ends.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from emodistill.checks import check_number, check_whole
from emodistill.errors import UserError
from emodistill.execution import machine
from emodistill.execution.dispatch import Dispatch
from emodistill.execution.pieces import Advance, OneAfterOther, Piece
from emodistill.execution.worker import Failure, Packer, interrupts_held, serve
from emodistill.progress import progress

MODEL_CORES = 4  # that one language model makes good use of; more workers than cores / 4 would be in each other's way
WORTH_S = 20.0  # of one core: less is not worth the start of processes, of a few seconds each
STOP_S = 30.0  # how long a worker may take to end once the user has stopped it


class LocalExecutor:
    """See `Executor`.

    Args:
        workers: processes. 1 does everything in this process; None chooses by cores, memory, GPUs and the work.
        threads: of each worker; None shares out the cores.
        memory_gb: what a worker is taken to need, in GiB, until one is seen to need more.
        retries: how often a piece that lost its worker is done again.
    """

    def __init__(
        self, workers: int | None = None, threads: int | None = None, memory_gb: float = 2.0, retries: int = 2
    ) -> None:
        check_whole("executor.workers", workers, null="to choose")
        check_whole("executor.threads", threads, null="to share out the cores")
        check_number("executor.memory_gb", memory_gb, 0)
        check_whole("executor.retries", retries, 0)
        self.workers, self.threads, self.memory_gb, self.retries = workers, threads, memory_gb, retries

    def run(self, title: str, pieces: Sequence[Piece]) -> None:
        """See `Executor`."""
        if not pieces:
            return
        cards = machine.gpus() if len(pieces) > 1 and any(piece.needs.model for piece in pieces) else 0
        count = self.count(pieces, cards)
        if count == 1:
            OneAfterOther().run(title, pieces)
            return
        threads = self.threads or max(1, machine.cores() // count)
        with progress(f"{title}, {count} workers", sum(piece.size for piece in pieces)) as advance:
            _Pool(count, threads, cards, self.memory_gb, self.retries, pieces, advance).run()

    def count(self, pieces: Sequence[Piece], cards: int = 0) -> int:
        """How many workers these pieces get, memory aside.

        Args:
            cards: GPUs of this machine; each language model gets one of its own.
        """
        if self.workers is not None or len(pieces) < 2:
            return min(self.workers or 1, len(pieces))
        if sum(piece.needs.seconds for piece in pieces) < WORTH_S:
            return 1
        most = machine.cores()
        if any(piece.needs.model for piece in pieces):
            most = cards or max(1, most // MODEL_CORES)
        return min(most, len(pieces))


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    tasks: Connection
    lifeline: Connection  # closed with this process, which ends the worker
    card: int | None = None  # its GPU, as PyTorch counts them here
    kit: str | None = None
    piece: Piece | None = None
    steps: float = 0.0  # of its piece, that the bar has been given

    @property
    def is_idle(self) -> bool:
        return self.piece is None


@dataclass
class _Pool:
    """One run: who does what, and what is left."""

    count: int
    threads: int
    cards: int
    memory_gb: float
    retries: int
    pieces: Sequence[Piece]
    advance: Advance
    workers: list[_Worker] = field(default_factory=list)
    packer: Packer = field(default_factory=Packer)

    def run(self) -> None:
        self.dispatch = Dispatch(self.pieces, self.retries)
        try:
            while self.dispatch.unfinished:
                self._hand_out()
                for ready in wait([worker.tasks for worker in self.workers]):
                    self._hear(next(worker for worker in self.workers if worker.tasks is ready))
            self._dismiss()
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            for worker in self.workers:
                worker.process.kill()
                self._forget(worker)

    def _hand_out(self) -> None:
        """Give every idle worker a piece, and start workers while there are pieces that could be done now."""
        while self.dispatch.ready:
            idle = next((worker for worker in self.workers if worker.is_idle), None)
            if not idle and not (len(self.workers) < self.count and self._has_room()):
                return
            worker = idle or self._start()
            piece = self.dispatch.take(worker.kit)
            assert piece is not None  # some are ready
            worker.piece, worker.steps = piece, 0.0
            package = self.packer.pack(piece, piece.kit == worker.kit)
            worker.kit = piece.kit
            try:
                worker.tasks.send(package)
            except OSError:
                self._lost(worker)

    def _has_room(self) -> bool:
        """Whether memory holds one more worker, when all that run have grown to what one of them has needed."""
        memory = [machine.memory_of_gb(worker.process.pid or 0) for worker in self.workers]
        each = max([self.memory_gb, *(most * 1.1 for _, most in memory)])
        growth = sum(max(0.0, each - now) for now, _ in memory)
        return not self.workers or machine.free_memory_gb() - growth >= each

    def _start(self) -> _Worker:
        spawn = get_context("spawn")
        mine, theirs = spawn.Pipe()
        their_end, my_end = spawn.Pipe(duplex=False)
        held = [worker.card for worker in self.workers]
        card = min(range(self.cards), key=held.count) if self.cards else None  # that of a lost worker is free again
        gpu = None if card is None else machine.gpu_name(card)
        process = spawn.Process(target=serve, args=(theirs, their_end, self.threads, self.count, gpu), daemon=True)
        with interrupts_held():  # in the worker too, until it can end well
            process.start()
        theirs.close()
        their_end.close()
        worker = _Worker(process, mine, my_end, card)
        self.workers.append(worker)
        return worker

    def _hear(self, worker: _Worker) -> None:
        try:
            kind, content = worker.tasks.recv()
        except (EOFError, OSError):
            self._lost(worker)
            return
        assert worker.piece is not None  # only who works has something to say
        if kind == "step":
            worker.steps += content
            self.advance(content)
        elif kind == "failed":
            failure: Failure = content
            failure.reraise(worker.piece.title)
        else:
            self.advance(worker.piece.size - worker.steps)
            self.dispatch.done(worker.piece)
            worker.piece = None

    def _lost(self, worker: _Worker) -> None:
        """A worker is gone: its piece is done again, a few times."""
        worker.process.join()
        code, piece = worker.process.exitcode, worker.piece
        self._forget(worker)
        if code == 130:
            raise KeyboardInterrupt
        self.dispatch.let_go(worker.kit)
        if piece is None:
            return
        self.advance(-worker.steps)
        if not self.dispatch.lost(piece):
            how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            raise UserError(
                f"{piece.title} lost its worker {self.dispatch.losses[piece.name]} times ({how}; signal 9 is mostly a "
                "lack of memory); give fewer workers with executor.workers=..., and run the same command again"
            )

    def _dismiss(self) -> None:
        for worker in self.workers:
            _tell(worker.tasks, None)
        for worker in list(self.workers):
            worker.process.join(STOP_S)

    def _interrupt(self) -> None:
        for worker in self.workers:
            if worker.process.is_alive() and worker.process.pid:
                os.kill(worker.process.pid, signal.SIGINT)
        for worker in list(self.workers):
            worker.process.join(STOP_S)

    def _forget(self, worker: _Worker) -> None:
        self.workers = [other for other in self.workers if other is not worker]
        worker.tasks.close()
        worker.lifeline.close()
        worker.process.join()


def _tell(tasks: Connection, message: Any) -> None:
    with suppress(OSError):  # it is gone already
        tasks.send(message)
