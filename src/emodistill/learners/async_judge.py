"""Asking a judge while something else goes on: one thread in the background, and a limit to how long anybody waits.

Whoever draws utterances hands them over and goes on; whoever needs the scores waits for them, for a limited time. What
has not come by then is missing, as if the judge had said so. The thread goes on with what it has begun, so that a late
answer is in the ledger when it is asked for again. What had not begun is not asked at all.

Requests that come in while the judge is at work are put to it together in the next call: a judge behind an endpoint
answers many as quickly as one.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from emodistill.errors import UserError
from emodistill.judges.request import JudgeRequest

logger = logging.getLogger(__name__)


class Scorer(Protocol):
    """A judge behind its ledger."""

    def scores(
        self, requests: Sequence[JudgeRequest], on_score: Callable[[int, float | None], None] | None = None
    ) -> list[float | None]:
        """One score a request, 1 to 10, None where the judge gave none.

        Args:
            on_score: called with place and score as soon as each is there, on the calling thread.
        """


@dataclass(frozen=True)
class Judging:
    """How JPO goes about its judge.

    Attributes:
        look_ahead: batches of the same optimizer step that are drawn, and put to the judge, before the scores of this
            one are waited for; 0 waits for every batch right after it was drawn.
        timeout_s: longest wait for a batch's scores; those that have not come are missing then. None waits for ever.
        min_group: a group with fewer scores teaches nothing and is counted as skipped.
        patience: batches in a row without any score after which the run ends, to be continued; None never ends it.
    """

    look_ahead: int
    timeout_s: float | None
    min_group: int
    max_unscored_batches: int | None

    def __post_init__(self) -> None:
        if self.look_ahead < 0:
            raise UserError(f"judging.look_ahead={self.look_ahead}: it is a number of batches, 0 or more")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise UserError(
                f"judging.timeout_s={self.timeout_s}: use a number of seconds above 0, or null for no limit"
            )
        if self.min_group < 2:
            raise UserError(f"judging.min_group={self.min_group}: one score compares with nothing; use 2 or more")
        if self.max_unscored_batches is not None and self.max_unscored_batches < 1:
            raise UserError(
                f"judging.max_unscored_batches={self.max_unscored_batches}: use 1 batch or more, or null for no end of it"
            )


class ScoreFuture:
    """Requests that a judge was or will be asked.

    Attributes:
        scores: what has come so far; filled by the judge's thread.
        ended: set once all have come, or the judge broke down.
        found: what counted when the scores were needed; None before that.
        waited_s: how long they were waited for then.
    """

    def __init__(self, requests: Sequence[JudgeRequest]) -> None:
        self.requests = list(requests)
        self.scores: list[float | None] = [None] * len(self.requests)
        self.left = set(range(len(self.requests)))
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.found: list[float | None] | None = None
        self.waited_s = 0.0

    def take(self, place: int, score: float | None) -> None:
        self.scores[place] = score
        self.left.discard(place)
        if not self.left:
            self.ended.set()


class AsyncJudge:
    """A judge at work in the background.

    Args:
        timeout_s: longest wait for the scores of one batch, from the moment they are needed; None waits for ever.
    """

    def __init__(self, judge: Scorer, timeout_s: float | None) -> None:
        self.judge, self.timeout_s = judge, timeout_s
        self._queue: list[ScoreFuture] = []
        self._guard = threading.Lock()
        self._working = False

    def ask(self, requests: Sequence[JudgeRequest]) -> ScoreFuture:
        """Hand requests over; returns at once."""
        asked = ScoreFuture(requests)
        with self._guard:
            self._queue.append(asked)
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, name="judge", daemon=True).start()  # no exit waits for a dead judge
        return asked

    def collect(self, asked: ScoreFuture) -> list[float | None]:
        """The scores, once all are there or the time is over; what has not come by then is None, now and later.

        Raises:
            BaseException: what the judge raised.
        """
        if asked.found is None:
            began = time.perf_counter()
            if not asked.ended.wait(self.timeout_s):
                self._withdraw(asked)
            asked.waited_s = time.perf_counter() - began
            if asked.error is not None:
                raise asked.error
            asked.found = list(asked.scores)
        return asked.found

    def _withdraw(self, asked: ScoreFuture) -> None:
        with self._guard:
            if asked in self._queue:
                self._queue.remove(asked)
        late, count = sum(score is None for score in asked.scores), len(asked.scores)
        text = "%d of %d scores did not come within %g s and are missing; those under way are stored when they come"
        logger.warning(text, late, count, self.timeout_s)

    def scores(
        self, requests: Sequence[JudgeRequest], on_score: Callable[[int, float | None], None] | None = None
    ) -> list[float | None]:
        """Ask and wait, within the time limit."""
        found = self.collect(self.ask(requests))
        if on_score is not None:
            for place, score in enumerate(found):
                on_score(place, score)
        return found

    def _work(self) -> None:
        """Until nothing is left to ask."""
        while True:
            with self._guard:
                batch, self._queue = self._queue, []
                if not batch:
                    self._working = False
                    return
            self._put(batch)

    def _put(self, batch: Sequence[ScoreFuture]) -> None:
        places = [(asked, place) for asked in batch for place in range(len(asked.requests))]

        def arrived(number: int, score: float | None) -> None:
            asked, place = places[number]
            asked.take(place, score)

        try:
            found = self.judge.scores([asked.requests[place] for asked, place in places], arrived)
            for number, score in enumerate(found):
                arrived(number, score)
        except BaseException as error:  # whatever it is: it is for the thread that waits
            for asked in batch:
                asked.error = error if asked.left else None
        finally:
            for asked in batch:
                asked.ended.set()
