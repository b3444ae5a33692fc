"""A language model behind an OpenAI-compatible endpoint: vLLM, llama.cpp, Ollama, a commercial API.

Many requests go out at once from one event loop on a thread of its own; whoever asks waits in plain code and gets a
reply or a failure for every request, whatever the server does. What a failure means is in docs/endpoints.md. A request
passes, in this order: the circuit breaker, a slot, the rates a minute, the budget. It is made again as `RetryPolicy`
says, and a slot is free while it waits for that.

No key is a part of this object: it is read from the environment when the first request goes out.
"""

import asyncio
import json
import math
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import SimpleQueue
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from emodistill.errors import UserError
from emodistill.language_models.budget import Price, Reservation, Spending, UsageTotals, price_of
from emodistill.language_models.completion import CompletionRequest, Failure, FailureKind, Reply, Usage

# ---- traffic ----
# How fast an endpoint may be asked: calls at a time, calls a minute, tokens a minute.
#
# Only the thread of the event loop touches what is here.


@dataclass(frozen=True)
class Traffic:
    """Limits of one endpoint; None is no limit."""

    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"traffic.{name}={value} lets nothing through; give a positive number or null")


@dataclass(frozen=True)
class Timeouts:
    """Seconds that one call may take.

    Attributes:
        connect_s: until the connection stands.
        first_byte_s: until the first byte of the answer, and between two of them. A server that does not stream sends
            its first byte when the whole reply is written, so this bounds the generation.
        whole_s: from beginning to end of the call.
    """

    connect_s: float = 10.0
    first_byte_s: float = 120.0
    whole_s: float = 180.0

    def __post_init__(self) -> None:
        if min(self.connect_s, self.first_byte_s, self.whole_s) <= 0:
            raise UserError(f"{self}: every time-out is a positive number of seconds")


class Bucket:
    """A token bucket that holds one second's worth, so a minute's allowance is spread over the minute.

    What is larger than the bucket waits until it is full and leaves a debt, so nothing waits for ever.
    First come, first served.
    """

    def __init__(self, per_minute: float) -> None:
        self.rate_s = per_minute / 60.0
        self.capacity = max(1.0, self.rate_s)
        self._level, self._at, self._turn = self.capacity, time.monotonic(), asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Wait until so much may go."""
        async with self._turn:
            while (missing := min(amount, self.capacity) - self._refilled()) > 1e-9:
                await asyncio.sleep(missing / self.rate_s)
            self._level -= amount

    def give_back(self, amount: float) -> None:
        """Correct an estimate that was too high by `amount`, or too low where that is negative."""
        self._level = min(self.capacity, self._refilled() + amount)

    def _refilled(self) -> float:
        now = time.monotonic()
        self._level = min(self.capacity, self._level + (now - self._at) * self.rate_s)
        self._at = now
        return self._level


class RateLimiter:
    """What a call passes before it is made: a slot, then its share of calls and tokens a minute."""

    def __init__(self, traffic: Traffic) -> None:
        self.slots = asyncio.Semaphore(traffic.concurrency)
        self._requests = Bucket(traffic.requests_per_minute) if traffic.requests_per_minute else None
        self._tokens = Bucket(traffic.tokens_per_minute) if traffic.tokens_per_minute else None

    async def admit(self, tokens: int) -> None:
        """Wait for the rates; `tokens` is an estimate of what the call will take."""
        if self._requests:
            await self._requests.take(1)
        if self._tokens:
            await self._tokens.take(tokens)

    def correct(self, estimated: int, taken: int) -> None:
        """Say what the call took in truth."""
        if self._tokens:
            self._tokens.give_back(estimated - taken)


# ---- retries ----
# When a call is made again, and how long to wait before.
#
# Full jitter: a wait is drawn uniformly from zero to a bound that doubles with every retry, so that clients whom one
# outage threw out together do not come back together.
#
# Source: Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog; RFC 9110, 10.2.3 (Retry-After).

RETRIED = frozenset({408, 409, 429})  # and every status from 500


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how late.

    Attributes:
        max_retries: calls after the first one, for whatever reason.
        timeout_retries: of these, after a time-out: such a call took long, and may have been paid for.
        base_s, cap_s: bound of the first wait, which doubles up to the cap.
        retry_after_max_s: a server that asks for a longer wait is not waited for.
    """

    max_retries: int = 5
    timeout_retries: int = 1
    base_s: float = 1.0
    cap_s: float = 30.0
    retry_after_max_s: float = 60.0
    rng: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.max_retries, self.timeout_retries, self.base_s, self.cap_s, self.retry_after_max_s) < 0:
            raise UserError(f"{self}: no number of retries and no wait can be negative")

    def wait_s(self, retry: int, retry_after_s: float | None) -> float:
        """Seconds before retry number `retry` (from 0): what the server asks for and some jitter, or jitter alone."""
        if retry_after_s is not None:
            return retry_after_s + self.rng.uniform(0.0, min(self.base_s, self.cap_s))
        return self.rng.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(retry, 60)))


def retried(status: int) -> bool:
    """Whether a call that ended with this HTTP status may succeed when it is made again."""
    return status in RETRIED or status >= 500


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None where it says nothing readable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


# ---- breaker ----
# A circuit breaker: an endpoint that keeps failing is left alone for a while, and then tried with one request.
#
# Without it, every one of ten thousand judgements would go through all its retries against a server that is gone. What
# counts is a request that was *given up*, after its retries: a short restart of a server is bridged by them and opens
# nothing. Refusals that speak of one request (too long, too fast) do not count, and any reply closes the circuit.

Pass = Literal["closed", "probe"]


class CircuitBreaker:
    """Closed, open, and half open while its one probe is under way.

    Args:
        failures: requests given up in a row that open it.
        cooldown_s: how long it stays open before a probe.
    """

    def __init__(self, failures: int = 5, cooldown_s: float = 30.0) -> None:
        if failures < 1 or cooldown_s < 0:
            raise UserError(f"breaker: failures={failures} has to be positive, cooldown_s={cooldown_s} not negative")
        self.failures, self.cooldown_s = failures, cooldown_s
        self._in_a_row = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def open(self) -> bool:
        return self._opened_at is not None

    @property
    def probe_in_s(self) -> float:
        """Seconds until the next probe may go."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self.cooldown_s - time.monotonic())

    def admits(self) -> Pass | None:
        """How a call may be made now: as any other, or as the probe; None where it may not."""
        if not self.open:
            return "closed"
        if self._probing or self.probe_in_s > 0:
            return None
        self._probing = True
        return "probe"

    def succeeded(self) -> None:
        """A call was answered."""
        self._in_a_row, self._opened_at, self._probing = 0, None, False

    def failed(self, as_what: Pass) -> None:
        """A request was given up for a reason that says something of the server."""
        self._in_a_row += 1
        if as_what == "probe" or (self._in_a_row >= self.failures and not self.open):
            self._opened_at = time.monotonic()
        self.left(as_what)

    def left(self, as_what: Pass) -> None:
        """A request ended without saying anything of the server; if it was the probe, another may go."""
        if as_what == "probe":
            self._probing = False


# ---- dialect ----
# How one request is put to a server: all speak of one protocol, and each leaves out or renames something.

Structure = Literal["auto", "json_schema", "json_object", "off"]
STRUCTURES = ("json_schema", "json_object", "off")  # each a fallback of the one before


@dataclass(frozen=True)
class Dialect:
    """What this server understands.

    Attributes:
        structure: how a JSON schema is asked for. `auto` begins with `json_schema`, and where the server refuses that
            by name asks for any JSON object, and then for nothing.
        max_tokens_field: some call it `max_completion_tokens`.
        omit: fields that the server refuses, such as `seed` or `temperature`.
        extra: fields to add to every request.
    """

    structure: Structure = "auto"
    max_tokens_field: str = "max_tokens"
    omit: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.structure not in ("auto", *STRUCTURES):
            raise UserError(f"dialect.structure={self.structure}: use auto, {', '.join(STRUCTURES)}")

    def body(self, model: str, request: CompletionRequest, structure: str) -> dict[str, Any]:
        """The fields of one call."""
        fields: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            self.max_tokens_field: request.max_tokens,
            "temperature": request.temperature,
        }
        if request.seed is not None:
            fields["seed"] = request.seed
        if request.schema is not None and structure == "json_schema":
            schema = {"name": "reply", "strict": True, "schema": request.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.schema is not None and structure == "json_object":
            fields["response_format"] = {"type": "json_object"}
        return {name: value for name, value in (fields | dict(self.extra)).items() if name not in self.omit}


def most_tokens(request: CompletionRequest) -> int:
    """An upper bound of what a request can take: no tokenizer makes more tokens than bytes, and templates add a few."""
    prompt = sum(len(message.content.encode("utf-8", "replace")) + 16 for message in request.messages) + 64
    return prompt + len(json.dumps(request.schema or {})) + request.max_tokens


def likely_tokens(request: CompletionRequest) -> int:
    """An estimate of the same, for the rate limits: about four bytes a token."""
    return sum(len(message.content) for message in request.messages) // 4 + request.max_tokens


# ---- replies ----
# Reading what a chat-completions server sent: a reply whole and well formed, or the reason why it is none.

QUOTA_WORDS = ("insufficient_quota", "exceeded your current quota", "billing_hard_limit", "insufficient balance")
LONGEST_QUOTE = 200
MOST_TOKENS = 10**9  # of one call; a server that counts more does not count


@dataclass(frozen=True)
class Outcome:
    """How one call ended.

    Attributes:
        text: the reply, or None where `kind` and `reason` say why there is none.
        tokens: read and written, as the server counted them; None where it did not say.
        charged: whether the call may have cost something.
        retry: whether the same call may end better.
        at_once: the same request may be put in another way now; that is not counted as a retry.
        retry_after_s: what the server asked to wait.
        servers_fault: whether the failure says something of the server rather than of the request.
    """

    text: str | None = None
    cut: bool = False
    kind: FailureKind | None = None
    reason: str = ""
    tokens: tuple[int, int] | None = None
    charged: bool = False
    retry: bool = False
    at_once: bool = False
    retry_after_s: float | None = None
    servers_fault: bool = False


def read_reply(content: bytes) -> Outcome:
    """The outcome of a call that ended with status 200."""
    try:
        envelope = json.loads(content)
    except (ValueError, RecursionError):  # brackets without end are no JSON that anybody meant
        return malformed("the reply is no JSON")
    if not isinstance(envelope, dict):
        return malformed("the reply is no JSON object")
    tokens = _tokens(envelope.get("usage"))
    if envelope.get("error"):
        return Outcome(kind="status", reason=f"status 200 with an error: {words_of(content)}", tokens=tokens)
    try:
        choice = envelope["choices"][0]
        text, ending = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return malformed("the reply has no message", tokens)
    if not isinstance(text, str):
        return malformed("the message has no text", tokens)
    if ending == "content_filter":
        return malformed("the server's content filter stopped the reply", tokens)
    return Outcome(text=text, cut=ending == "length", tokens=tokens, charged=True)


def malformed(reason: str, tokens: tuple[int, int] | None = None) -> Outcome:
    return Outcome(kind="malformed", reason=reason, tokens=tokens, charged=True)


def read_refusal(status: int, content: bytes, retry_after: float | None) -> Outcome:
    """The outcome of a call that ended with another status than 200."""
    words = words_of(content)
    if status in (401, 403):  # the words of such an answer like to quote the key
        return Outcome(kind="authentication", reason=f"status {status}: the server refuses the key", servers_fault=True)
    if status == 402 or (status == 429 and any(word in content.decode("utf-8", "replace") for word in QUOTA_WORDS)):
        return Outcome(kind="quota", reason=f"status {status}: {words}", servers_fault=True)
    retry = retried(status)
    about = f"status {status}: {words}" if words else f"status {status}"
    fault = (retry and status not in (409, 429)) or status == 404
    return Outcome(kind="status", reason=about, retry=retry, retry_after_s=retry_after, servers_fault=fault)


def words_of(content: bytes) -> str:
    """The server's own words in an error, shortened to one line."""
    text = content.decode("utf-8", "replace")
    try:
        error: Any = json.loads(text)
    except (ValueError, RecursionError):
        error = text
    while isinstance(error, dict):
        error = next((error[key] for key in ("error", "message", "detail") if error.get(key)), str(error))
    line = " ".join(str(error).split())
    return line if len(line) <= LONGEST_QUOTE else line[:LONGEST_QUOTE] + "..."


def _tokens(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_TOKENS for count in counts):
        return counts  # type: ignore[return-value]  # checked just above
    return None


# ---- calls ----
# One call to a chat-completions server, with its time-outs; whatever happens becomes an `Outcome`.

UNKNOWN_FORMAT = re.compile(rb"response_format|json_schema|json_object|guided|grammar|schema", re.IGNORECASE)
KEEP_ALIVE_S = 30.0  # an idle connection; servers close theirs sooner or later, and a call on such a one is made again
_NOTHING_SENT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL)


def checked_address(base_url: str | None) -> str:
    """The address without a slash at its end.

    Raises:
        UserError: if it is none, or holds a secret.
    """
    if not base_url:
        raise UserError(
            "no endpoint is set; give its address as base_url=http://HOST:PORT/v1 and the name of its model"
        )
    parts = urlsplit(base_url)
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, or too large
        valid = False
    if not valid:
        raise UserError("base_url is no address; write it as http://HOST:PORT/v1 or https://HOST/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError("base_url holds more than an address; a key belongs into the variable that api_key_env names")
    return base_url.rstrip("/")


def key_from(variable: str | None) -> str | None:
    """The API key in an environment variable; None where none is named.

    Raises:
        UserError: if the variable is not set, or holds what cannot be a key. Its value is not shown.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {variable}, which api_key_env names, is not set; export the key in it"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"the environment variable {variable} holds characters that no key has; export the key alone")
    return key


def proxy_from(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for an address.

    Raises:
        UserError: if it is of a kind that is not spoken here. Its address, which may hold a password, is not shown.
    """
    address, proxies = urlsplit(url), getproxies()
    proxy = None if proxy_bypass(address.netloc) else proxies.get(address.scheme) or proxies.get("all")
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise UserError(
            f"the environment names a proxy for {address.hostname} that is neither http:// nor https://; "
            f"change it, or set NO_PROXY={address.hostname}"
        )
    return proxy


class Caller:
    """Makes calls with one connection pool; built and used on one event loop.

    It sends no cookie and nothing of a netrc file, and follows no redirect: a key goes to one address only.
    """

    def __init__(self, base_url: str, model: str, key: str | None, timeouts: Timeouts, dialect: Dialect) -> None:
        self.url, self.model, self.timeouts, self.dialect = f"{base_url}/chat/completions", model, timeouts, dialect
        self.structure = STRUCTURES[0] if dialect.structure == "auto" else dialect.structure
        self._secret = key.encode() if key else None
        limits = aiohttp.ClientTimeout(timeouts.whole_s, timeouts.connect_s, timeouts.first_byte_s)
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self._session = aiohttp.ClientSession(
            headers={"Content-Type": "application/json", **authorization},
            timeout=limits,
            proxy=proxy_from(self.url),
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(self, request: CompletionRequest) -> Outcome:
        """Make the call; never raises for what the network or the server does."""
        structure = self.structure
        content = json.dumps(self.dialect.body(self.model, request, structure)).encode()
        try:
            async with self._session.post(self.url, data=content, allow_redirects=False) as response:
                answer = self._safe(await response.read())
        except TimeoutError as error:
            return self._too_late(error)
        except aiohttp.ClientError as error:
            return self._broken(error)
        if response.status == 200:
            return read_reply(answer)
        outcome = read_refusal(response.status, answer, retry_after_s(response.headers.get("Retry-After")))
        falls_back = request.schema and self._falls_back(response.status, answer, structure)
        return replace(outcome, at_once=True) if falls_back else outcome

    def _broken(self, error: aiohttp.ClientError) -> Outcome:
        sent = not isinstance(error, _NOTHING_SENT)
        said = self._safe(str(error).encode()).decode() or type(error).__name__
        if isinstance(error, aiohttp.ClientHttpProxyError):  # its own words quote the proxy's address
            said = f"the proxy answers with status {error.status}"
        reason = f"the connection broke: {said}" if sent else f"no connection: {said}"
        return Outcome(kind="connection", reason=reason, charged=sent, retry=True, servers_fault=True)

    def _too_late(self, error: TimeoutError) -> Outcome:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            reason = f"no connection within {self.timeouts.connect_s:g} s"
            return Outcome(kind="timeout", reason=reason, retry=True, servers_fault=True)
        reason = f"no whole reply within {self.timeouts.whole_s:g} s"
        if isinstance(error, aiohttp.SocketTimeoutError):
            reason = f"no byte for {self.timeouts.first_byte_s:g} s"
        return Outcome(kind="timeout", reason=reason, charged=True, retry=True, servers_fault=True)

    def _falls_back(self, status: int, answer: bytes, asked: str) -> bool:
        """Whether the server refused the way a schema was asked for, and there is another way."""
        if self.dialect.structure != "auto" or asked == STRUCTURES[-1]:
            return False
        if status not in (400, 404, 415, 422, 501) or not UNKNOWN_FORMAT.search(answer):
            return False
        if self.structure == asked:  # another call may have found out first
            self.structure = STRUCTURES[STRUCTURES.index(asked) + 1]
        return True

    def _safe(self, content: bytes) -> bytes:
        """Without our key, should the server repeat it."""
        return content.replace(self._secret, b"[key]") if self._secret else content


# ---- desk ----
# What becomes of a request: calls until one is answered, or until there is a reason to give up.

BUDGET_LOOK_S = 0.02  # how often a request looks whether calls in flight have left room in the budget
Deliver = Callable[[int, Reply | Failure], None]


@dataclass
class RequestState:
    """One request on its way: what it has taken so far, since its first call was let through."""

    request: CompletionRequest
    began: float | None = None
    usage: Usage = Usage()
    retries: int = 0
    timeouts: int = 0

    def failure(self, kind: FailureKind, reason: str) -> Failure:
        return Failure(kind, reason, self.final_usage())

    def add(self, tally: UsageTotals, priced: bool) -> None:
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


class RequestScheduler:
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
        self.spending, self.price, self.gate = spending, price, RateLimiter(traffic)
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
        course = RequestState(request)
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

    def _next_in_s(self, course: RequestState, outcome: Outcome, admitted: Pass) -> float | Failure:
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

    async def _attempt(self, course: RequestState) -> Outcome | None:
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

    def _tally(self, outcome: Outcome, reserved: Reservation) -> UsageTotals:
        """What a call came to."""
        if outcome.tokens:
            cost = self.price.of(*outcome.tokens) if self.price else 0.0
            return UsageTotals(1, *outcome.tokens, cost)
        if outcome.charged:
            return UsageTotals(1, unmetered_calls=1, unmetered_tokens=reserved.tokens, unmetered_cost=reserved.cost)
        return UsageTotals(1)


# ---- background ----
# An event loop on a thread of its own, so that plain code can use asynchronous clients.

T = TypeVar("T")


class BackgroundLoop:
    """Runs coroutines for other threads; a daemon, so it never keeps the interpreter from ending."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self, last: Coroutine[Any, Any, None]) -> None:
        """Run `last`, then end the thread; what is still running is cancelled."""
        self.submit(last).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


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
        self._open: tuple[int, BackgroundLoop, RequestScheduler] | None = None
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

    def _opened(self) -> tuple[BackgroundLoop, RequestScheduler]:
        with self._starting:
            if self._open is None or self._open[0] != os.getpid():  # a fork has the object, but not the thread
                key = key_from(self.api_key_env)
                loop = BackgroundLoop(f"endpoint {self.model}")
                desk = loop.submit(self._desk(key)).result()
                self._open = (os.getpid(), loop, desk)
                self._finalizer = weakref.finalize(self, _shut, os.getpid(), loop, desk)
            return self._open[1:]

    async def _desk(self, key: str | None) -> RequestScheduler:
        """Built on the loop, where its locks belong."""
        caller = Caller(self.base_url, self.model, key, self.timeouts, self.dialect)
        return RequestScheduler(self.name, caller, self.traffic, self.retries, self.breaker, self.spending, self.price)


def _shut(pid: int, loop: BackgroundLoop, desk: RequestScheduler) -> None:
    if pid == os.getpid():
        loop.stop(desk.close())
