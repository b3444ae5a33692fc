"""Verdicts on their way into the ledger: those that were paid for at once, free ones in batches.

A commit that also survives a power cut waits for the disk, several milliseconds each; a commit that survives the end of
this process does not. So what was paid for is committed as it arrives, and the disk is waited for once a second and at
the end.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from emodistill.judges.ledger_rows import Ledger, Row
from emodistill.judges.request import HIGHEST, LOWEST, Judge, Judgement, JudgeRequest, OnJudgement

_PAUSE_S = 1.0  # how long a free verdict waits for others, and how often the disk is waited for


class Intake:
    """Takes one call's verdicts; leaving it, as a context manager, stores what is still waiting.

    Args:
        wanted: key and request of each verdict, in the judge's order.
        batch_size: most free verdicts that wait to be stored together.
        on_judgement: told of each verdict once it is taken.
    """

    def __init__(
        self,
        ledger: Ledger,
        judge: Judge,
        wanted: Sequence[tuple[str, JudgeRequest]],
        batch_size: int,
        on_judgement: OnJudgement | None,
    ) -> None:
        self.ledger, self.judge, self.wanted, self.batch_size = ledger, judge, wanted, batch_size
        self.on_judgement = on_judgement
        self._taken: set[int] = set()
        self._held = {place for place, (_, request) in enumerate(wanted) if request.held is not None}
        self._waiting: list[tuple[int, Judgement]] = []
        self._stored_at = self._safe_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store()
        self.ledger.sync()

    def take(self, place: int, given: Judgement) -> None:
        """The verdict on one request; a second one on the same request is not looked at, unless the first was held."""
        if place in self._taken:
            return
        judgement = valid(given)
        self._waiting.append((place, judgement))
        at_once = judgement.usage.attempts > 0 or place in self._held or judgement.held is not None
        (self._taken if judgement.held is None else self._held).add(place)
        if at_once or len(self._waiting) >= self.batch_size or time.monotonic() - self._stored_at >= _PAUSE_S:
            self._store()
        if self.on_judgement is not None and judgement.held is None:
            self.on_judgement(place, judgement)

    def _store(self) -> None:
        now = time.monotonic()
        share_s = (now - self._stored_at) / max(len(self._waiting), 1)  # of a judge that does not say how long it took
        rows = [
            Row(*self.wanted[place], self.judge, given if place in self._held else _timed(given, share_s))
            for place, given in self._waiting
        ]
        self.ledger.put(rows)
        self._waiting.clear()
        self._stored_at = now
        if now - self._safe_at >= _PAUSE_S:
            self.ledger.sync()
            self._safe_at = now


def valid(given: Judgement) -> Judgement:
    """The judgement as it may be stored: a score outside 1 to 10 is missing, and what is missing has a reason."""
    score = given.score if given.held is None else given.held
    if score is not None and not LOWEST <= score <= HIGHEST:  # true of NaN too
        reason = f"the judge gave {score}, which is not a score from 1 to 10"
        return replace(given, score=None, reason=reason, held=None)
    if given.score is None:
        return replace(given, reason=given.reason or "the judge gave no score and no reason")
    return replace(given, score=float(given.score), reason=None)


def _timed(given: Judgement, share_s: float) -> Judgement:
    if given.usage.latency_s:
        return given
    return replace(given, usage=replace(given.usage, latency_s=share_s))
