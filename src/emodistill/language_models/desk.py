"""What becomes of a request: calls until one is answered, or until there is a reason to give up."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from emodistill.errors import UserError
from emodistill.language_models.accounts import Reservation, Tally
from emodistill.language_models.breaker import CircuitBreaker, Pass
from emodistill.language_models.calls import Caller
from emodistill.language_models.completion import CompletionRequest, Failure, FailureKind, Reply, Usage
from emodistill.language_models.dialect import likely_tokens, most_tokens
from emodistill.language_models.prices import Price
from emodistill.language_models.replies import Outcome
from emodistill.language_models.retries import RetryPolicy
from emodistill.language_models.spending import Spending
from emodistill.language_models.traffic import Gate, Traffic

BUDGET_LOOK_S = 0.02  # how often a request looks whether calls in flight have left room in the budget
Deliver = Callable[[int, Reply | Failure], None]


@dataclass
class Course:
    """One request on its way: what it has taken so far, since its first call was let through."""

    request: CompletionRequest
    began: float | None = None
    usage: Usage = Usage()
    retries: int = 0
    timeouts: int = 0

    def failure(self, kind: FailureKind, reason: str) -> Failure:
        return Failure(kind, reason, self.final_usage())

    def add(self, tally: Tally, priced: bool) -> None:
        """Count a call that was made."""
        used = self.usage
        self.usage = replace(
            used,
            prompt_tokens=used.prompt_tokens + tally.prompt_tokens,
            completion_tokens=used.completion_tokens + tally.completion_tokens,
            cost=(used.cost or 0.0) + tally.cost if priced else None,
            attempts=used.attempts + 1,
        )

    def final_usage(self) -> Usage:
        return replace(self.usage, latency_s=0.0 if self.began is None else time.monotonic() - self.began)


class Desk:
    """Serves requests of one endpoint, from any number of `serve` calls; lives on its event loop."""

    def __init__(
        self,
        name: str,
        caller: Caller,
        traffic: Traffic,
        policy: RetryPolicy,
        breaker: CircuitBreaker,
        spending: Spending,
        price: Price | None,
    ) -> None:
        self.name, self.caller, self.policy, self.breaker = name, caller, policy, breaker
        self.spending, self.price, self.gate = spending, price, Gate(traffic)
        self.workers = 4 * traffic.concurrency  # more than slots: some requests wait for their retry

    async def close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.caller.close()

    async def serve(self, requests: Sequence[CompletionRequest], deliver: Deliver) -> None:
        """Answer all, each as soon as it can be."""
        left = iter(enumerate(requests))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.workers, len(requests))):
                    group.create_task(self._work(left, deliver))
        except* (UserError, OSError) as errors:  # the file of the spending is damaged, or its disk is full
            raise errors.exceptions[0] from None

    async def _work(self, left: Iterator[tuple[int, CompletionRequest]], deliver: Deliver) -> None:
        for index, request in left:
            deliver(index, await self._answer(request))

    async def _answer(self, request: CompletionRequest) -> Reply | Failure:
        course = Course(request)
        while True:
            async with self.gate.slots:
                course.began = course.began or time.monotonic()  # before that it waited for others, not for the server
                admitted = self.breaker.admits()
                if admitted is None:
                    wait_s = self.breaker.probe_in_s
                    reason = f"the endpoint failed {self.breaker.failures} times in a row; next try in {wait_s:.0f} s"
                    return course.failure("circuit", reason)
                try:
                    outcome = await self._attempt(course)
                except asyncio.CancelledError:
                    self.breaker.left(admitted)  # or else an abandoned probe would leave the circuit open for good
                    raise
            if outcome is None:
                self.breaker.left(admitted)
                return course.failure("budget", f"the budget is used up: {self.spending.budget()}; raise it to go on")
            if outcome.text is not None:
                self.breaker.succeeded()
                return Reply(outcome.text, course.final_usage(), outcome.cut)
            next_in_s = self._next_in_s(course, outcome, admitted)
            if isinstance(next_in_s, Failure):
                return next_in_s
            await asyncio.sleep(next_in_s)

    def _next_in_s(self, course: Course, outcome: Outcome, admitted: Pass) -> float | Failure:
        """Seconds until the next attempt, or the failure where there is none."""
        if outcome.at_once:
            self.breaker.left(admitted)
            return 0.0
        course.timeouts += outcome.kind == "timeout"
        spent = course.retries >= self.policy.max_retries or course.timeouts > self.policy.timeout_retries
        asked_s = outcome.retry_after_s or 0.0
        too_long = asked_s > self.policy.retry_after_max_s
        if outcome.retry and not (spent or too_long or admitted == "probe"):
            course.retries += 1
            return self.policy.wait_s(course.retries - 1, outcome.retry_after_s)
        if outcome.servers_fault:
            self.breaker.failed(admitted)
        else:
            self.breaker.left(admitted)
        more = f"; the server asks to wait {asked_s:.0f} s" if outcome.retry and too_long else ""
        calls = f" after {course.usage.attempts} calls" if course.usage.attempts > 1 else ""
        return course.failure(outcome.kind or "malformed", f"{outcome.reason}{calls}{more}")

    async def _attempt(self, course: Course) -> Outcome | None:
        """One call within rates and budget; None where the budget has no room for it."""
        likely, reserved = likely_tokens(course.request), self._reservation(course.request)
        await self.gate.admit(likely)
        while (room := self.spending.reserve(reserved)) is None:
            await asyncio.sleep(BUDGET_LOOK_S)
        if not room:
            self.gate.correct(likely, 0)
            return None
        outcome = None
        try:
            outcome = await self.caller.call(course.request)
            return outcome
        finally:  # without an outcome the call was abandoned on its way, and may be charged all the same
            tally = self._tally(outcome or Outcome(charged=True), reserved)
            self.spending.settle(self.name, reserved, tally)
            self.gate.correct(likely, tally.most_tokens if not tally.unmetered_calls else likely)
            course.add(tally, priced=self.price is not None)

    def _reservation(self, request: CompletionRequest) -> Reservation:
        most = most_tokens(request)
        cost = self.price.of(most - request.max_tokens, request.max_tokens) if self.price else 0.0
        return Reservation(most, cost)

    def _tally(self, outcome: Outcome, reserved: Reservation) -> Tally:
        """What a call came to."""
        if outcome.tokens:
            cost = self.price.of(*outcome.tokens) if self.price else 0.0
            return Tally(1, *outcome.tokens, cost)
        if outcome.charged:
            return Tally(1, unmetered_calls=1, unmetered_tokens=reserved.tokens, unmetered_cost=reserved.cost)
        return Tally(1)
