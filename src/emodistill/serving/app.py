"""The routes of the server: OpenAI's protocol, what the page needs, health and metrics (docs/serving.md)."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from emodistill.checks import check_number, check_whole
from emodistill.errors import UserError
from emodistill.serving.gate import Gate
from emodistill.serving.lockstep import Lockstep
from emodistill.serving.protocol import Answer, ChatRequest, RecordRequest, Refusal, model, models, read
from emodistill.serving.records import Records
from emodistill.serving.served_run import ServedRun

_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_COUNTED = {
    "/",
    "/v1/chat/completions",
    "/v1/models",
    "/api/run",
    "/api/scenarios",
    "/api/record",
    "/health",
    "/metrics",
}
_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_UPLOAD_S = 20.0  # for the body of a request to arrive
_GONE = 499  # of a client that did not wait for its reply; nobody reads it


@dataclass(frozen=True)
class Limits:
    """
    Attributes:
        body_bytes: of a request.
        timeout_s: for a reply, waiting included.
        open: conversations that wait for a reply at a time, of one client.
    """

    body_bytes: int = 524_288
    timeout_s: float = 120.0
    open: int = 256

    def __post_init__(self) -> None:
        check_whole("limits.body_bytes", self.body_bytes)
        check_number("limits.timeout_s", self.timeout_s, 0)
        check_whole("limits.open", self.open)


class Service:
    """What the routes share.

    Args:
        records: where negotiations are stored that people agreed to; None stores nothing.
    """

    def __init__(self, run: ServedRun, lockstep: Lockstep, gate: Gate, limits: Limits, records: Records | None) -> None:
        self.run, self.lockstep, self.gate, self.limits, self.records = run, lockstep, gate, limits, records
        self.metrics, self.began = lockstep.metrics, int(time.time())
        self.open: dict[str, int] = {}  # conversations that wait for a reply, by client

    def app(self) -> ASGIApp:
        """The ASGI application; `lockstep` runs as long as it does."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.model),
            Route("/api/run", self.about),
            Route("/api/scenarios", self.scenarios),
            Route("/api/record", self.record, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
            *(Route(path, self.page) for path in _PAGE),
        ]
        handlers: Any = {
            Refusal: self.refused,
            UserError: self.refused,
            HTTPException: self.refused,
            ClientDisconnect: self.refused,
            Exception: self._failed,
        }
        return _Watched(Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan), self)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        answering = asyncio.create_task(self.lockstep.run())
        yield
        self.lockstep.stop()
        await answering

    async def chat(self, request: Request) -> Response:
        asked = read(ChatRequest, await self._body(request))
        if asked.n not in (None, 1):
            raise Refusal(400, "invalid_field", f"n={asked.n}: there is one reply", "n")
        talk, words = self.run.open(asked)
        answer = await self._answer(request, lambda: self.lockstep.ask(asked.model, talk, words))
        if answer is None:
            return Response(status_code=_GONE)
        if not asked.stream:
            return JSONResponse(answer.completion())
        with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        return StreamingResponse(answer.stream(with_usage), media_type="text/event-stream")

    async def _answer(self, request: Request, ask: Callable[[], "asyncio.Future[Answer]"]) -> Answer | None:
        """The answer to a request; None where its client has left.

        Raises:
            Refusal: if it took too long, or the client waits for too many already.
        """
        client = request.client.host if request.client else ""
        if self.open.get(client, 0) >= self.limits.open:
            most = f"{self.limits.open} of your conversations wait for a reply already"
            raise Refusal(429, "too_many_open", most, None, self.lockstep.patience)
        answer = ask()
        self.open[client] = self.open.get(client, 0) + 1
        gone = asyncio.ensure_future(_left(request))
        try:
            first: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(first, timeout=self.limits.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if gone.done():
                self.metrics.vanished += 1
                return None
            raise Refusal(504, "timeout", f"there was no reply within {self.limits.timeout_s:g} s; try again later")
        finally:
            answer.cancel()
            gone.cancel()
            self.open[client] -= 1
            if not self.open[client]:
                del self.open[client]

    async def models(self, _: Request) -> Response:
        return JSONResponse(models([*self.run.agents], self.began))

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        self.run.agent(name)
        return JSONResponse(model(name, self.began))

    async def about(self, _: Request) -> Response:
        return JSONResponse(self.run.about(self.records is not None))

    async def scenarios(self, request: Request) -> Response:
        return JSONResponse(self.run.about_scenarios(request.query_params.get("domain")))

    async def record(self, request: Request) -> Response:
        if self.records is None:
            raise Refusal(403, "no_record", "this server stores nothing; start it with record=true")
        asked = read(RecordRequest, await self._body(request))
        if not asked.consent:
            raise Refusal(403, "no_consent", "nothing is stored without the person's consent", "consent")
        talk, last = self.run.open(asked)
        if last is not None:
            talk.messages.append({"role": "user", "content": last})
        episode = await self.lockstep.call(self.records.add, talk, asked.rating, asked.blind)
        return JSONResponse({"stored": episode})

    async def health(self, _: Request) -> Response:
        stopping = self.lockstep.stopping
        return JSONResponse({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)

    async def show_metrics(self, _: Request) -> Response:
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(self, request: Request) -> Response:
        name, kind = _PAGE[request.url.path]
        return Response((resources.files("emodistill.serving") / "page" / name).read_bytes(), media_type=kind)

    async def _body(self, request: Request) -> bytes:
        """
        Raises:
            Refusal: if it is too large, or does not arrive.
        """
        content, size = [], 0
        try:
            async with asyncio.timeout(_UPLOAD_S):
                async for part in request.stream():
                    size += len(part)
                    if size <= self.limits.body_bytes:
                        content.append(part)  # the rest is read, or else the client could not read the answer
        except TimeoutError as error:
            raise Refusal(408, "slow_body", f"the body did not arrive within {_UPLOAD_S:g} s") from error
        if size > self.limits.body_bytes:
            most = f"the body has {size:,} bytes; at most {self.limits.body_bytes:,} are read"
            raise Refusal(413, "too_large", most)
        return b"".join(content)

    async def refused(self, _: Request, error: Exception) -> Response:
        """A mistake of the client as OpenAI would say it."""
        if isinstance(error, ClientDisconnect):
            return Response(status_code=_GONE)
        if isinstance(error, HTTPException):
            error = Refusal(error.status_code, "not_found" if error.status_code == 404 else "http", error.detail)
        if not isinstance(error, Refusal):
            error = Refusal(400, "invalid_request", str(error))
        self.metrics.refusals[error.code] += 1
        wait = error.retry_after
        headers = {} if wait is None else {"retry-after": str(math.ceil(wait))}
        return JSONResponse(error.body(), error.status, headers)

    async def _failed(self, _: Request, error: Exception) -> Response:
        """A mistake of ours; uvicorn logs its traceback."""
        return JSONResponse(Refusal(500, "internal", "the server made a mistake; its log says which").body(), 500)


class _Watched:
    """Around every request: may it come in, and how did it end?"""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
                self.service.metrics.requests[(_route(scope["path"]), message["status"])] += 1
            await send(message)

        try:
            self.service.gate.check(request)
        except Refusal as error:
            response = await self.service.refused(request, error)
            await response(scope, receive, watched)
            return
        await self.app(scope, receive, watched)


def _route(path: str) -> str:
    """The path as a label: no client can make up another."""
    return path if path in _COUNTED else "other"


async def _left(request: Request) -> None:
    """Returns when the client has closed its connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
