"""Asks a judge in a background thread, with a limit to how long the scores are waited for.

`ask` returns at once with a `ScoreFuture`; `collect` waits for its scores, at most `timeout_s`. A score that has not
come by then is missing, as if the judge had given none. The thread finishes the call it is in, so that a late answer is
in the ledger when it is asked for again; requests that were not yet in a call are withdrawn.

Requests that come in while the judge is at work go to it together in the next call: a judge behind an endpoint answers
many as quickly as one.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from emodistill.checks import Allowed, check_settings, is_number, is_whole
from emodistill.judges.request import JudgeRequest, Scorer

logger = logging.getLogger(__name__)

_ALLOWED: Allowed = {
    "look_ahead": (partial(is_whole, least=0), "a whole number of batches, 0 or more"),
    "timeout_s": (lambda v: v is None or (is_number(v) and v > 0), "a number of seconds above 0, or null for no limit"),
    "min_group": (partial(is_whole, least=2), "a whole number of at least 2, for one score compares with nothing"),
    "max_unscored_batches": (lambda v: v is None or is_whole(v), "1 batch or more, or null to never end"),
}


@dataclass(frozen=True)
class Judging:
    """How JPO uses its judge.

    Attributes:
        look_ahead: batches of the same optimizer step that are put to the judge before the scores of this one are
            waited for; 0 puts every batch to it in its turn and waits.
        timeout_s: longest wait for a batch's scores; those that have not come are missing then. None waits for ever.
        min_group: a group with fewer scores has no part in the loss and is counted as skipped.
        max_unscored_batches: batches in a row without any score after which the run ends, to be continued; None never
            ends it.

    Raises:
        UserError: if one of them has no meaning.
    """

    look_ahead: int
    timeout_s: float | None
    min_group: int
    max_unscored_batches: int | None

    def __post_init__(self) -> None:
        check_settings(vars(self), _ALLOWED, "learner.judging.")


class ScoreFuture:
    """Requests to a judge whose scores may be on their way.

    Attributes:
        scores: what has come so far; filled by the judge's thread.
        done: set once all have come, or the judge broke down.
        collected: the scores as they were when they were needed; None before that.
        waited_s: how long they were waited for then.
    """

    def __init__(self, requests: Sequence[JudgeRequest]) -> None:
        self.requests = list(requests)
        self.scores: list[float | None] = [None] * len(self.requests)
        self.pending = set(range(len(self.requests)))
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.collected: list[float | None] | None = None
        self.waited_s = 0.0

    def take(self, place: int, score: float | None) -> None:
        self.scores[place] = score
        self.pending.discard(place)
        if not self.pending:
            self.done.set()


class AsyncJudge:
    """A judge at work in the background.

    Args:
        timeout_s: longest wait for the scores of one batch, from the moment they are needed; None waits for ever.
    """

    def __init__(self, judge: Scorer, timeout_s: float | None) -> None:
        self.judge, self.timeout_s = judge, timeout_s
        self._by_call: bool = getattr(judge, "by_call", False)  # how requests are joined must not depend on timing
        self._queue: list[ScoreFuture] = []
        self._lock = threading.Lock()
        self._working = False

    def ask(self, requests: Sequence[JudgeRequest]) -> ScoreFuture:
        """Hand requests over; returns at once.

        The thread computes on the caller's GPU; by default it would use the first one, in every process.
        """
        future = ScoreFuture(requests)
        begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch 2.13
        device = torch.cuda.current_device() if begun else None
        with self._lock:
            self._queue.append(future)
            if not self._working:
                self._working = True
                worker = threading.Thread(target=self._work, args=(device,), name="judge", daemon=True)
                worker.start()  # a daemon: no exit waits for a dead judge
        return future

    def collect(self, future: ScoreFuture) -> list[float | None]:
        """The scores, once all are there or the time is over; what has not come by then is None, now and later.

        Raises:
            BaseException: what the judge raised.
        """
        if future.collected is None:
            began = time.perf_counter()
            if not future.done.wait(self.timeout_s):
                self._withdraw(future)
            future.waited_s = time.perf_counter() - began
            if future.error is not None:
                raise future.error
            future.collected = list(future.scores)
        return future.collected

    def scores(
        self, requests: Sequence[JudgeRequest], on_score: Callable[[int, float | None], None] | None = None
    ) -> list[float | None]:
        """Ask and wait, within the time limit."""
        found = self.collect(self.ask(requests))
        if on_score is not None:
            for place, score in enumerate(found):
                on_score(place, score)
        return found

    def _withdraw(self, future: ScoreFuture) -> None:
        with self._lock:
            if future in self._queue:
                self._queue.remove(future)
        late, count = sum(score is None for score in future.scores), len(future.scores)
        text = "%d of %d scores did not come within %g s and are missing; those under way are stored when they come"
        logger.warning(text, late, count, self.timeout_s)

    def _work(self, device: int | None = None) -> None:
        """The thread: one call after the other until the queue is empty."""
        if device is not None:
            torch.cuda.set_device(device)
        while True:
            with self._lock:
                count = 1 if self._by_call else len(self._queue)
                batch, self._queue = self._queue[:count], self._queue[count:]
                if not batch:
                    self._working = False
                    return
            self._call(batch)

    def _call(self, batch: Sequence[ScoreFuture]) -> None:
        places = [(future, place) for future in batch for place in range(len(future.requests))]

        def arrived(number: int, score: float | None) -> None:
            future, place = places[number]
            future.take(place, score)

        try:
            found = self.judge.scores([future.requests[place] for future, place in places], arrived)
            for number, score in enumerate(found):
                arrived(number, score)
        except BaseException as error:  # whatever it is: it is for the thread that waits
            for future in batch:
                future.error = error if future.pending else None
        finally:
            for future in batch:
                future.done.set()
