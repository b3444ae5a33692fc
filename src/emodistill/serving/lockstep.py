"""Many conversations, one set of models: requests wait in a queue, and those of one arm are answered together.

One thread owns the models. While it writes the replies of a batch, requests gather; then the arm of the one that has
waited longest is next, with everybody else who waits for that arm. So a new conversation joins the next step. All but
the step itself happens on the event loop, so the queue needs no lock.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from emodistill.checks import check_number, check_whole
from emodistill.errors import UserError
from emodistill.negotiator import Conversation, Negotiator, Reply
from emodistill.serving.metrics import Metrics
from emodistill.serving.protocol import Answer, Refusal

logger = logging.getLogger(__name__)

Count = Callable[[str], int]
Result = TypeVar("Result")


@dataclass(eq=False)
class Waiting:
    """One request in the queue; whoever gives up cancels its future, and it costs no step."""

    model: str
    talk: Conversation
    words: str | None
    answer: "asyncio.Future[Answer]"
    since: float = field(default_factory=time.monotonic)


class Lockstep:
    """Answers conversations with the agents of a run.

    Args:
        agents: by the name that clients know them by.
        counters: of the tokens of a text, by the same names.
        batch: most replies that are written together.
        queue: most requests that wait.
        gather_s: how long a step that is not full waits for others. Whoever was answered together comes back nearly
            together; without this the first of them would be answered alone.

    Raises:
        UserError: if `batch`, `queue` or `gather_s` has no meaning.
    """

    def __init__(
        self,
        agents: Mapping[str, Negotiator],
        counters: Mapping[str, Callable[[], Count]],
        batch: int,
        queue: int,
        gather_s: float,
    ) -> None:
        check_whole("batch", batch)
        check_whole("queue", queue)
        check_number("gather_s", gather_s, 0)
        self.agents, self.counters, self.batch, self.queue, self.gather_s = agents, counters, batch, queue, gather_s
        self.metrics = Metrics(lambda: len(self.waiting))
        self.waiting: list[Waiting] = []
        self.stopping = False
        self._arrived, self._turn = asyncio.Event(), asyncio.Lock()
        self._models = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._seconds = 1.0  # of a step, on average lately

    def ask(self, model: str, talk: Conversation, words: str | None) -> "asyncio.Future[Answer]":
        """Put a request into the queue; its future has the answer, or why there is none.

        Raises:
            Refusal: if the queue is full, or the server stops.
        """
        self._forget_gone()
        if self.stopping:
            raise _stopping()
        if len(self.waiting) >= self.queue:
            raise Refusal(429, "queue_full", f"{self.queue} requests wait already; try again", None, self.patience)
        one = Waiting(model, talk, words, asyncio.get_running_loop().create_future())
        self.waiting.append(one)
        self._arrived.set()
        return one.answer

    @property
    def patience(self) -> float:
        """Seconds after which a full queue will have been worked off."""
        return max(1.0, self._seconds * len(self.waiting) / self.batch)

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in the thread that owns the models, between two steps.

        Raises:
            Refusal: if the server stops.
        """
        if self.stopping:
            raise _stopping()
        async with self._turn:
            if self.stopping:  # since it began to wait
                raise _stopping()
            return await asyncio.get_running_loop().run_in_executor(self._models, partial(function, *arguments))

    async def run(self) -> None:
        """Answer whoever waits, until `stop`."""
        while not self.stopping:
            await self._arrived.wait()
            if len(self.waiting) < self.batch:
                await asyncio.sleep(self.gather_s)
            async with self._turn:  # who is answered is decided when the models are free, and no sooner
                due = self._next()
                if due:
                    await self._step(due)
        self._models.shutdown(wait=False)

    def stop(self) -> None:
        """Refuse whoever waits; the step that runs is finished. Twice is once."""
        self.stopping = True
        for one in self.waiting:
            if not one.answer.done():
                one.answer.set_exception(_stopping())
        self.waiting.clear()
        self._arrived.set()

    def _next(self) -> list[Waiting]:
        """Those who are answered together, taken out of the queue."""
        self._forget_gone()
        due = [one for one in self.waiting if one.model == self.waiting[0].model][: self.batch]
        taken = set(map(id, due))
        self.waiting = [one for one in self.waiting if id(one) not in taken]
        if not self.waiting and not self.stopping:
            self._arrived.clear()
        return due

    def _forget_gone(self) -> None:
        self.waiting = [one for one in self.waiting if not one.answer.done()]

    async def _step(self, due: list[Waiting]) -> None:
        began = time.monotonic()
        step = asyncio.get_running_loop().run_in_executor(self._models, self._answers, due)
        await asyncio.wait([step])
        took = time.monotonic() - began
        self._seconds = 0.8 * self._seconds + 0.2 * took
        self.metrics.batch.add(len(due))
        self.metrics.step_seconds.add(took)
        failed = step.exception()
        if isinstance(failed, UserError):  # whoever runs the server can mend it, its clients cannot
            logger.error("%s cannot answer: %s", due[0].model, failed)
            why = f"the agent '{due[0].model}' cannot answer now; the server's log says why"
            failed = Refusal(500, "agent_failed", why)
        for place, one in enumerate(due):
            if one.answer.done():
                continue  # gave up meanwhile
            found = failed or step.result()[place]
            if isinstance(found, Answer):
                self.metrics.replies[one.model] += 1
                self.metrics.reply_seconds.add(time.monotonic() - one.since)
                one.answer.set_result(found)
            else:
                one.answer.set_exception(found)

    def _answers(self, due: list[Waiting]) -> list[Answer | UserError]:
        """One step of the models, in their own thread."""
        model = due[0].model
        before = [[*one.talk.messages] for one in due]
        replies = self.agents[model].reply_each([one.talk for one in due], [one.words for one in due])
        count = self.counters[model]()
        found: list[Answer | UserError] = []
        for one, heard, reply in zip(due, before, replies, strict=True):
            if isinstance(reply, Reply):
                said = [*(message["content"] for message in heard), one.words or ""]
                found.append(Answer(model, one.talk, reply, (sum(map(count, said)), count(reply.words))))
            else:
                found.append(reply)
        return found


def _stopping() -> Refusal:
    return Refusal(503, "stopping", "the server stops; try again when it is back", None, 5.0)
