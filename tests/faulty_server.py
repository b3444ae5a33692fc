"""A chat-completions server on loopback that fails as it is told to, and counts what it did.

    with FaultyServer(lambda body: '{"score": 7}', fault_rate=0.3, faults=MIXED) as server:
        ...  # server.base_url, server.calls, server.billed_tokens

What befalls a call is a function of the seed, of what is asked and of how often that was asked before, never of the
order in which calls arrive: a run with 32 calls at a time meets the same faults as a run with one. With `upstream` the
server stands between a client and a real one, whose replies it passes on or spoils. Run as a script it is a process of
its own.

A token is a word here. A call is billed when the model ran to its end, as a provider would bill it, whether or not
the answer arrived whole; `lost_tokens` are those whose bill could not arrive, so a client can know of exactly
`billed_tokens - lost_tokens`.
"""

import argparse
import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import uvicorn
from faulty_replies import LOST, QUOTA, gone, respond, spoilt

Body = dict[str, Any]
Ready = tuple[int, Any, dict[str, str]]  # status, body and headers of an answer that is sent as it stands
MIXED = (
    *("429", "429_retry_after", "429_date", "500", "503", "408", "409", "hang", "reset", "truncated"),
    *("invalid_json", "no_choices", "wrong_schema", "out_of_range", "401", "quota", "slow_first_byte"),
)


@dataclass(frozen=True)
class Call:
    """One call as the server saw it; `fault` is what it did to it, None for a proper reply."""

    body: Body
    headers: dict[str, str]
    fault: str | None
    at: float
    query: str = ""


class FaultyServer:
    """A context manager; the server runs in a thread of its own between enter and exit.

    Args:
        reply: text for a request's body; by default it repeats the last message.
        faults: what can happen, one of `MIXED`, or any HTTP status from 400 as text.
        fault_rate: share of calls that something happens to.
        script: what happens to the first calls, in the order of arrival, before `fault_rate` decides; None is a reply,
            and a `Ready` is the answer itself.
        latency_s: time that every reply takes.
        slow_s, hang_s: how long `slow_first_byte` and `hang` keep the client waiting.
        finish_reason: what replies say of their end; `length` is a cut.
        quote, location: words in the body, and address in the header, of refusals.
        retry_after: seconds in the header of `429_retry_after`; `429_date` says the same as a date.
        upstream: base address of a real server, ending in /v1, that answers in place of `reply`.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        reply: Callable[[Body], str] = lambda body: f"You said: {body['messages'][-1]['content']}",
        *,
        faults: Sequence[str] = MIXED,
        fault_rate: float = 0.0,
        script: Sequence[str | Ready | None] = (),
        seed: int = 0,
        latency_s: float = 0.0,
        slow_s: float = 0.2,
        hang_s: float = 60.0,
        retry_after: float = 0.05,
        finish_reason: str = "stop",
        quote: str = "",
        location: str = "",
        upstream: str | None = None,
        port: int = 0,
    ) -> None:
        self.reply, self.faults, self.fault_rate, self.seed = reply, faults, fault_rate, seed
        self.script, self.latency_s, self.slow_s, self.hang_s = list(script), latency_s, slow_s, hang_s
        self.retry_after, self.finish_reason, self.upstream, self.port = retry_after, finish_reason, upstream, port
        self.quote, self.location = quote, location
        self.log: list[Call] = []
        self.billed_tokens = self.lost_tokens = self.running = self.most_at_once = 0
        self.happened: Counter[str | None] = Counter()
        self._seen: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        return len(self.log)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "FaultyServer":
        listening = socket.create_server(("127.0.0.1", self.port), backlog=512)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a reply's body waits 40 ms for its header
        self.port = listening.getsockname()[1]
        settings = {"log_level": "critical", "lifespan": "off", "timeout_graceful_shutdown": 0, "access_log": False}
        self._server = uvicorn.Server(uvicorn.Config(self, **settings))
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """The ASGI application."""
        if not scope["path"].endswith("/chat/completions"):
            await respond(send, 200 if scope["path"] == "/health" else 404, b"{}")
            return
        content, more = b"", True
        while more:
            event = await receive()
            content, more = content + event.get("body", b""), event.get("more_body", False)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            headers = {key.decode(): value.decode() for key, value in scope["headers"]}
            await self._serve(json.loads(content), headers, scope["query_string"].decode(), receive, send)
        finally:
            self.running -= 1

    async def _serve(
        self, body: Body, headers: dict[str, str], query: str, receive: Callable[[], Any], send: Callable[[Any], Any]
    ) -> None:
        fault = self._fault(body)
        ready = fault if isinstance(fault, tuple) else None
        fault = "ready" if ready else fault
        self.log.append(Call(body, headers, fault, time.monotonic(), query))
        self.happened[fault] += 1
        if ready:
            content = ready[1] if isinstance(ready[1], bytes) else json.dumps(ready[1]).encode()
            await respond(send, ready[0], content, ready[2])
            return
        wait_s = {"hang": self.hang_s, "slow_first_byte": self.slow_s + self.latency_s}.get(fault or "", self.latency_s)
        if wait_s and await gone(receive, wait_s):
            return  # the client left before the model was done: nothing to bill
        if fault == "hang":
            raise ConnectionAbortedError
        if fault and (fault[:3].isdigit() or fault == "quota"):
            await respond(send, *self._refusal(fault))
            return
        envelope = await self._envelope(body)
        tokens = envelope["usage"]["total_tokens"]
        self.billed_tokens += 0 if fault == "invalid_json" else tokens
        self.lost_tokens += tokens if fault in LOST else 0
        await respond(send, 200, spoilt(envelope, fault), cut=fault == "reset")

    def _fault(self, body: Body) -> str | Ready | None:
        """What befalls this call; the order in which others arrive has no say in it."""
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self._seen[key] += 1
        if self.script:
            return self.script.pop(0)
        draw = random.Random(f"{self.seed}/{key}/{self._seen[key]}")
        return draw.choice(self.faults) if draw.random() < self.fault_rate else None

    def _refusal(self, fault: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of a call that is turned away."""
        status = 429 if fault == "quota" else int(fault[:3])
        error = {"message": f"refused with {status} {self.quote}", "type": "error", "code": None}
        date = datetime.now(UTC) + timedelta(seconds=self.retry_after)
        later = {"429_retry_after": f"{self.retry_after:g}", "429_date": format_datetime(date, usegmt=True)}.get(fault)
        headers = {"retry-after": later} if later else {}
        headers |= {"location": self.location} if self.location else {}
        return status, json.dumps({"error": QUOTA if fault == "quota" else error}).encode(), headers

    async def _envelope(self, body: Body) -> Body:
        """A chat completion: the real server's, or one around `reply`."""
        if self.upstream:
            async with httpx2.AsyncClient(trust_env=False, timeout=300) as client:
                answer = await client.post(f"{self.upstream}/chat/completions", json=body)
                answer.raise_for_status()
                return dict(answer.json())
        text = self.reply(body)
        asked = sum(len(message["content"].split()) for message in body["messages"])
        usage = {"prompt_tokens": asked, "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        choice = {"index": 0, "finish_reason": self.finish_reason, "message": {"role": "assistant", "content": text}}
        about = {"id": f"chatcmpl-{self.calls}", "object": "chat.completion", "created": 0, "model": body["model"]}
        return {**about, "choices": [choice], "usage": usage}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A server on loopback with a fixed latency, until it is stopped.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-s", type=float, default=0.0)
    given = parser.parse_args()
    with FaultyServer(port=given.port, latency_s=given.latency_s) as running:
        print(running.base_url, flush=True)
        threading.Event().wait()
