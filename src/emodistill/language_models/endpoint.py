"""A language model behind an OpenAI-compatible endpoint: vLLM, llama.cpp, Ollama, a commercial API.

Many requests go out at once from one event loop on a thread of its own; whoever asks waits in plain code and gets a
reply or a failure for every request, whatever the server does. What a failure means is in docs/endpoints.md. A request
passes, in this order: the circuit breaker, a slot, the rates a minute, the budget. It is made again as `RetryPolicy`
says, and a slot is free while it waits for that.

No key is a part of this object: it is read from the environment when the first request goes out.
"""

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue

from emodistill.errors import UserError
from emodistill.language_models.background import BackgroundLoop
from emodistill.language_models.breaker import CircuitBreaker
from emodistill.language_models.calls import Caller, checked_address, key_from
from emodistill.language_models.completion import CompletionRequest, Failure, Reply
from emodistill.language_models.desk import Desk
from emodistill.language_models.dialect import Dialect
from emodistill.language_models.prices import price_of
from emodistill.language_models.retries import RetryPolicy
from emodistill.language_models.spending import Spending
from emodistill.language_models.traffic import Timeouts, Traffic

Arrivals = SimpleQueue[tuple[int, Reply | Failure] | Future[None]]


class Endpoint:
    """Implements `Completer`; may be used from several threads, and by forked processes each for itself.

    Args:
        base_url: address up to and with /v1.
        model: its name there.
        api_key_env: name of the environment variable that holds the key; None where the server wants none.
        price: `input` and `output` for a million tokens; None looks the model up in the price list.

    Raises:
        UserError: if the address, the price or a budget cannot be meant.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str | None,
        api_key_env: str | None = None,
        traffic: Traffic | None = None,
        timeouts: Timeouts | None = None,
        retries: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        spending: Spending | None = None,
        price: Mapping[str, float] | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        self.base_url, self.model, self.api_key_env = checked_address(base_url), model or "", api_key_env
        if not model:
            raise UserError(f"no model is set for the endpoint {self.base_url}; give the name that it goes by there")
        self.traffic, self.timeouts = traffic or Traffic(), timeouts or Timeouts()
        self.retries, self.breaker = retries or RetryPolicy(), breaker or CircuitBreaker()
        self.spending, self.dialect = spending or Spending(), dialect or Dialect()
        self.price = price_of(model, price)
        if self.price is None and self.spending.limits_cost:
            raise UserError(
                f"max_cost is set but the price of {model} is unknown; give price={{input: ..., output: ...}} in money "
                "for a million tokens, or a budget in max_tokens"
            )
        self._starting = threading.Lock()
        self._open: tuple[int, BackgroundLoop, Desk] | None = None
        self._finalizer: weakref.finalize[..., Endpoint] | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"

    @property
    def name(self) -> str:
        return f"{self.model} at {self.base_url}"

    def complete(
        self,
        requests: Sequence[CompletionRequest],
        on_answer: Callable[[int, Reply | Failure], None] | None = None,
    ) -> list[Reply | Failure]:
        """One answer a request, in order; see `Completer`.

        An exception of `on_answer`, or an interrupt, abandons what is under way and is passed on.

        Raises:
            UserError: if the key is not in the environment, or the file of the spending cannot be read.
        """
        if not requests:
            return []
        loop, desk = self._opened()
        answers: dict[int, Reply | Failure] = {}
        arrivals: Arrivals = SimpleQueue()
        serving = loop.submit(desk.serve(requests, lambda index, answer: arrivals.put((index, answer))))
        serving.add_done_callback(arrivals.put)  # should it fail, nobody waits for ever
        try:
            while len(answers) < len(requests):
                arrived = arrivals.get()
                if isinstance(arrived, Future):
                    arrived.result()
                    continue
                index, answers[index] = arrived[0], arrived[1]
                if on_answer:
                    on_answer(index, answers[index])
        finally:
            serving.cancel()
        return [answers[index] for index in range(len(requests))]

    def close(self) -> None:
        """End the thread and the connections; the next request opens them again."""
        with self._starting:
            if self._finalizer:
                self._finalizer()
            self._open = None

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> tuple[BackgroundLoop, Desk]:
        with self._starting:
            if self._open is None or self._open[0] != os.getpid():  # a fork has the object, but not the thread
                key = key_from(self.api_key_env)
                loop = BackgroundLoop(f"endpoint {self.model}")
                desk = loop.submit(self._desk(key)).result()
                self._open = (os.getpid(), loop, desk)
                self._finalizer = weakref.finalize(self, _shut, os.getpid(), loop, desk)
            return self._open[1:]

    async def _desk(self, key: str | None) -> Desk:
        """Built on the loop, where its locks belong."""
        caller = Caller(self.base_url, self.model, key, self.timeouts, self.dialect)
        return Desk(self.name, caller, self.traffic, self.retries, self.breaker, self.spending, self.price)


def _shut(pid: int, loop: BackgroundLoop, desk: Desk) -> None:
    if pid == os.getpid():
        loop.stop(desk.close())
