"""Ray as the executor: pieces as tasks on this machine or on a cluster, whose machines share the folders of the work.

Ray knows nothing that the files do not: it is told only of pieces without a result, keeps no result, and starts a task
again where its worker or machine is lost. Every machine needs this package at the same place, or installed.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from emodistill.checks import check_number, check_whole
from emodistill.errors import UserError
from emodistill.execution.dispatch import Dispatch
from emodistill.execution.pieces import Bench, Piece
from emodistill.execution.worker import Failure, Package, Packer, begin_work
from emodistill.progress import progress

AHEAD = 2  # pieces a core that Ray is told of: one under way and one to go on with; it slows down with their number
_bench = Bench()  # of a process of Ray, which does one task after the other


class RayExecutor:
    """See `Executor`.

    Args:
        address: of a cluster (`auto`, or HOST:PORT); None starts Ray on this machine and ends it afterwards.
        workers: cores that Ray takes where it starts here; None is all of them.
        model_cpus: cores of a piece with a language model; any other takes one.
        model_gpus: GPUs of such a piece; None is one. Where a machine has fewer cores or GPUs, it takes those.
        retries: how often a piece that lost its worker is done again.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        model_cpus: int = 4,
        model_gpus: float | None = None,
        retries: int = 2,
    ) -> None:
        check_whole("executor.workers", workers, null="for all cores")
        check_whole("executor.model_cpus", model_cpus)
        check_number("executor.model_gpus", model_gpus, 0, null="for one where there are any")
        check_whole("executor.retries", retries, 0)
        self.address, self.workers, self.retries = address, workers, retries
        self.model_cpus, self.model_gpus = model_cpus, model_gpus

    def run(self, title: str, pieces: Sequence[Piece]) -> None:
        """See `Executor`."""
        if not pieces:
            return
        with (
            self._connected() as ray,
            progress(f"{title}, Ray", sum(piece.size for piece in pieces)) as advance,
        ):
            self._run(ray, pieces, advance)

    def _run(self, ray: Any, pieces: Sequence[Piece], advance: Any) -> None:
        has = ray.cluster_resources()
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        do, dispatch, packer = ray.remote(_do), Dispatch(pieces, self.retries), Packer()
        under_way: dict[Any, Piece] = {}
        at_once = AHEAD * int(has["CPU"])
        try:
            while dispatch.unfinished:
                while len(under_way) < at_once and (piece := dispatch.take_first()):
                    needs = self._resources(piece, machines)
                    task = do.options(**needs, max_retries=self.retries, retry_exceptions=False)
                    under_way[task.remote(packer.pack(piece), int(needs["num_cpus"]), int(has["CPU"]))] = piece
                ray.wait(list(under_way), num_returns=1)
                for ended in ray.wait(list(under_way), num_returns=len(under_way), timeout=0)[0]:
                    piece = under_way.pop(ended)
                    self._check(ray, ended, piece)
                    dispatch.done(piece)
                    advance(piece.size)
        finally:
            for task in under_way:
                ray.cancel(task, force=True)

    def _resources(self, piece: Piece, machines: Sequence[dict[str, float]]) -> dict[str, float]:
        """What a task asks for, and never more than one machine has: Ray would wait for ever for another one."""
        if not piece.needs.model:
            return {"num_cpus": 1, "num_gpus": 0}
        gpus, cpus = max((has.get("GPU", 0.0), has.get("CPU", 0.0)) for has in machines)
        wanted = 1.0 if self.model_gpus is None else self.model_gpus
        return {"num_cpus": min(self.model_cpus, cpus), "num_gpus": min(wanted, gpus)}

    def _check(self, ray: Any, ended: Any, piece: Piece) -> None:
        """Raise what the piece raised in its worker."""
        try:
            failure: Failure | None = ray.get(ended)
        except ray.exceptions.RayError as error:  # none of ours: the worker, its machine or its memory was lost
            raise UserError(
                f"{piece.title} lost its worker {self.retries + 1} times ({type(error).__name__}); see Ray's own words "
                "above, and run the same command again"
            ) from error
        if failure:
            failure.reraise(piece.title)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            import ray
        except ImportError as error:
            raise UserError("executor=ray needs Ray: pip install -e '.[ray]', or leave executor= out") from error
        if self.address:
            ray.init(address=self.address, logging_level="error")
        else:
            ray.init(num_cpus=self.workers, include_dashboard=False, logging_level="error")
        try:
            yield ray
        finally:
            ray.shutdown()


def _do(package: Package, threads: int, workers: int) -> Failure | None:
    """A task of Ray. What went wrong is its result: Ray tries again only where a worker is lost."""
    begin_work(threads, workers)
    try:
        package.do(_bench, lambda steps: None)
    except Exception as error:
        return Failure.of(error)
    return None
