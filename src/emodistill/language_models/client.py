"""A language model behind an OpenAI-compatible endpoint: vLLM, llama.cpp, Ollama, a commercial API.

Many requests go out at once from an event loop on a thread of its own; whoever asks waits in plain code and gets a
reply or a failure for every request, whatever the server does. What each failure means is in docs/endpoints.md.

A request passes, in this order: a slot, the circuit breaker, the rates a minute, the budget. It is made again as
`RetryPolicy` says, and its slot is free while it waits for that. All endpoints of a process that ask the same model at
the same address share these limits (`SharedLimits`).

No key is a part of these objects: it is read from the environment when the first request goes out.
"""

import asyncio
import json
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiolimiter import AsyncLimiter
from pydantic import AfterValidator, BeforeValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from emodistill.errors import UserError
from emodistill.execution.worker import processes
from emodistill.language_models.answers import Outcome, read_answer, retry_after_s
from emodistill.language_models.budget import Price, Reservation, Settings, Spending, UsageTotals, price_of
from emodistill.language_models.completion import (
    AdapterRequest,
    CompletionRequest,
    Failure,
    Message,
    Reply,
    Request,
    TokenRequest,
    Usage,
)

UNKNOWN_FORMAT = re.compile(rb"response_format|json_schema|json_object|guided|grammar|schema", re.IGNORECASE)
UNKNOWN_ROLE = re.compile(  # "System role not supported", "does not support 'system'", "Unexpected role 'system'"
    rb"(?:system|developer)\W{1,3}(?:role|message|prompt|instruction)s?\b[^.\n]{0,30}(?:\bnot\b|unsupported|disallowed)"
    rb"|(?:not|n't|un)[ -]?support\w*[^.\n]{0,30}\bsystem\b|role\W{1,6}system\W{1,6}(?:is )?not\b"
    rb"|(?:unexpected|invalid|unknown|unsupported)[^.\n]{0,12} role\W{1,6}system\b|roles? must alternate"
    rb"|only[^.\n]{0,40}\broles? (?:are|is) (?:supported|allowed)|should be 'user' or 'assistant'",
    re.IGNORECASE,
)
REFUSED_FORM = (400, 404, 415, 422, 500, 501)  # a template that raises is a 500 of some servers
UNEXPLAINED = re.compile(  # the whole answer of a server that hides why its template raised (`transformers serve`)
    rb"(?:\W|detail|error|message)*internal server error\W*", re.IGNORECASE
)
KEEP_ALIVE_S = 30.0  # an idle connection; servers close theirs sooner or later, and a call on such a one is made again
BUDGET_POLL_S = 0.02  # how often a request looks whether calls in flight have left room in the budget
_NOTHING_SENT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL)
_JITTER = random.Random()  # the generator of the module `random` belongs to the run, and is restored when it resumes

Structure = Literal["auto", "json_schema", "json_object", "off"]
STRUCTURES = ("json_schema", "json_object", "off")  # each a fallback of the one before
SystemRole = Literal["auto", "system", "developer", "user"]
OURS = ("host", "content-type", "content-length", "transfer-encoding", "connection")  # headers that HTTP itself needs
HIDDEN_FROM = 8  # characters of a header's value; a shorter one is no secret, and words would lose their letters


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or name.lower() in OURS:
        raise ValueError("is no header that may be set")
    return name


HeaderName = Annotated[str, AfterValidator(_header_name)]
NoneAsEmpty = BeforeValidator(lambda value: {} if value is None else value)  # `null` can be set from a command line
T = TypeVar("T")


class Traffic(Settings):
    """How fast a model at an address may be asked; None is no limit.

    `concurrency` is in calls at a time, of each process; processes that share the work of one command share the rest.
    """

    section = "traffic"
    concurrency: PositiveInt = 8
    requests_per_minute: PositiveFloat | None = None
    tokens_per_minute: PositiveFloat | None = None

    def of_each(self, processes: int) -> "Traffic":
        """What one of so many processes may do."""
        each = {name: getattr(self, name) for name in ("requests_per_minute", "tokens_per_minute")}
        return Traffic(concurrency=self.concurrency, **{k: v and v / processes for k, v in each.items()})


class Timeouts(Settings):
    """Seconds that one call may take.

    Attributes:
        connect_s: until the connection stands.
        first_byte_s: until the first byte of the answer, and between two of them. A server that does not stream sends
            its first byte when the whole reply is written, so this bounds the generation.
        whole_s: from beginning to end of the call.
    """

    section = "timeouts"
    connect_s: PositiveFloat = 10.0
    first_byte_s: PositiveFloat = 120.0
    whole_s: PositiveFloat = 180.0


class BreakerPolicy(Settings):
    """When a failing endpoint is left alone.

    Attributes:
        failures: requests given up in a row that open the circuit.
        cooldown_s: seconds that it stays open before a probe.
    """

    section = "breaker"
    failures: PositiveInt = 5
    cooldown_s: NonNegativeFloat = 30.0


class RetryPolicy(Settings):
    """When a call is made again, and how long to wait before.

    Full jitter: a wait is drawn uniformly from zero to a bound that doubles with every retry, so that clients whom one
    outage threw out together do not come back together.

    Source: Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog; RFC 9110, 10.2.3 (Retry-After).

    Attributes:
        max_retries: calls after the first one, for whatever reason.
        timeout_retries: of these, after a time-out: such a call took long, and may have been paid for.
        base_s, cap_s: bound of the first wait, which doubles up to the cap.
        retry_after_max_s: a server that asks for a longer wait is not waited for.
    """

    section = "retries"
    max_retries: NonNegativeInt = 5
    timeout_retries: NonNegativeInt = 1
    base_s: NonNegativeFloat = 1.0
    cap_s: NonNegativeFloat = 30.0
    retry_after_max_s: NonNegativeFloat = 60.0

    def wait_s(self, retry: int, retry_after_s: float | None) -> float:
        """Seconds before retry number `retry` (from 0): what the server asks for and some jitter, or jitter alone."""
        if retry_after_s is not None:
            return retry_after_s + _JITTER.uniform(0.0, min(self.base_s, self.cap_s))
        return _JITTER.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(retry, 60)))

    def retrying(self) -> AsyncRetrying:
        """Calls a function again while its `Outcome` asks for it and calls are left; gives the last outcome."""
        return AsyncRetrying(
            retry=retry_if_result(lambda outcome: outcome.retry),
            stop=stop_after_attempt(1 + self.max_retries),
            wait=lambda state: self.wait_s(state.attempt_number - 1, _outcome(state).retry_after_s),
            retry_error_callback=_outcome,
        )


def _outcome(state: RetryCallState) -> Outcome:
    assert state.outcome is not None  # tenacity sets it before it asks
    outcome: Outcome = state.outcome.result()
    return outcome


class Dialect(Settings):
    """What this server understands: all speak of one protocol, and each leaves out, renames or adds something.

    Attributes:
        structure: how a JSON schema is asked for. `auto` begins with `json_schema`, and where the server refuses that
            by name asks for any JSON object, and then for nothing.
        system_role: who says the system's words: `system`, `developer`, or `user`, which puts them before the first
            words of the user (Gemma). `auto` begins with `system`, and where the server refuses that takes `user`.
        max_tokens_field: some call it `max_completion_tokens`.
        omit: fields that the server refuses, such as `seed` or `temperature`.
        extra: fields to add to every request.
        query: what the address ends in, such as `api-version`. No key belongs here: it is saved with the run.
        headers: further headers, each with the name of the environment variable that holds its value.
    """

    section = "dialect"
    structure: Structure = "auto"
    system_role: SystemRole = "auto"
    max_tokens_field: str = "max_tokens"
    omit: tuple[str, ...] = ()
    extra: Annotated[dict[str, Any], NoneAsEmpty] = {}
    query: Annotated[dict[str, str | int | float], NoneAsEmpty] = {}
    headers: Annotated[dict[HeaderName, str], NoneAsEmpty] = {}

    def body(self, model: str, request: CompletionRequest, structure: str, system_role: str) -> dict[str, Any]:
        """The fields of one call."""
        fields: dict[str, Any] = {
            "model": model,
            "messages": _messages(request.messages, system_role),
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
        return self._with_own(fields)

    def token_body(self, model: str, request: TokenRequest) -> dict[str, Any]:
        """The fields of one call for tokens.

        Every rule by which a server may draw is named, for vLLM takes what is left open from the model's own settings.
        The tokens' ids are asked for in the two ways in which servers tell them.
        """
        fields: dict[str, Any] = {
            "model": request.model or model,
            "prompt": request.prompt,
            self.max_tokens_field: request.max_tokens,
            "temperature": request.temperature,
            "top_k": -1 if request.top_k is None else request.top_k,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": request.stop_ids,
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
        }
        if request.echo:
            fields["echo"] = True
        if request.seed is not None:
            fields["seed"] = request.seed
        return self._with_own(fields)

    def _with_own(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in (fields | dict(self.extra)).items() if name not in self.omit}

    def recipe(self) -> dict[str, Any]:
        """What may change a reply, as far as it was set; of the headers the names."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        return given | ({"headers": sorted(self.headers)} if self.headers else {})


def _messages(messages: Sequence[Message], system_role: str) -> list[dict[str, str]]:
    """The chat as it is sent; with `user` as the system's role, its words stand before the first ones of the user."""
    put = [{"role": message.role, "content": message.content} for message in messages]
    if system_role == "user" and len(put) > 1 and (put[0]["role"], put[1]["role"]) == ("system", "user"):
        put[:2] = [{"role": "user", "content": f"{put[0]['content']}\n\n{put[1]['content']}"}]
    return [each | {"role": system_role} if each["role"] == "system" else each for each in put]


def most_tokens(request: Request) -> int:
    """An upper bound of what a request can take: no tokenizer makes more tokens than bytes, and templates add a few."""
    if isinstance(request, AdapterRequest):
        return 0
    if isinstance(request, TokenRequest):
        return len(request.prompt) + request.max_tokens
    prompt = sum(len(message.content.encode("utf-8", "replace")) + 16 for message in request.messages) + 64
    return prompt + len(json.dumps(request.schema or {})) + request.max_tokens


def likely_tokens(request: Request) -> int:
    """An estimate of the same, for the rate limits: about four bytes a token."""
    if not isinstance(request, CompletionRequest):
        return most_tokens(request)
    return sum(len(message.content) for message in request.messages) // 4 + request.max_tokens


class RateLimiter:
    """What a call passes before it is made: a slot, then its share of the calls and tokens a minute.

    First come, first served. A limit holds one second's worth, so that a minute's allowance is spread over the minute.
    Tokens are charged by an estimate; what a call took less or more than that is settled with the calls after it.
    """

    def __init__(self, traffic: Traffic) -> None:
        self.slots = asyncio.Semaphore(traffic.concurrency)
        self._requests, self._tokens = _limiter(traffic.requests_per_minute), _limiter(traffic.tokens_per_minute)
        self._turn = asyncio.Lock()  # or else the limiter serves the smallest first, and the largest perhaps never
        self._owed = 0.0  # tokens taken and not yet charged; below zero a credit, of at most one second's worth

    async def admit(self, tokens: int) -> None:
        """Wait for the rates; `tokens` is an estimate of what the call will take."""
        async with self._turn:
            if self._requests:
                await self._requests.acquire()
            if self._tokens:
                while (part := min(self._owed + tokens, self._tokens.max_rate)) > 0:
                    await self._tokens.acquire(part)
                    self._owed -= part
                self._owed += tokens

    def correct(self, estimated: int, taken: int) -> None:
        """Say what the call took in truth."""
        if self._tokens:
            self._owed = max(self._owed + taken - estimated, -self._tokens.max_rate)


def _limiter(per_minute: float | None) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    capacity = max(1.0, per_minute / 60.0)
    return AsyncLimiter(capacity, capacity * 60.0 / per_minute)


Pass = Literal["closed", "probe"]


class CircuitBreaker:
    """Leaves an endpoint that keeps failing alone for a while, and then tries it with one request, the probe.

    Without it, every one of ten thousand judgements would go through all its retries against a server that is gone.
    What counts is a request that was *given up*, after its retries: a short restart of a server is bridged by them and
    opens nothing. Refusals that speak of one request (too long, too fast) do not count; any reply closes the circuit.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self._in_a_row = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def probe_in_s(self) -> float:
        """Seconds until the next probe may go; zero where the circuit is closed."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self.policy.cooldown_s - time.monotonic())

    def admits(self) -> Pass | None:
        """How a call may be made now: as any other, or as the probe; None where it may not."""
        if self._opened_at is None:
            return "closed"
        if self._probing or self.probe_in_s > 0:
            return None
        self._probing = True
        return "probe"

    def ended(self, admitted: Pass, outcome: Outcome) -> None:
        """A request was answered, given up after its retries, or abandoned, which says nothing of the server."""
        if admitted == "probe":
            self._probing = False
        if outcome.text is not None:
            self._in_a_row, self._opened_at = 0, None
        elif outcome.servers_fault:
            self._in_a_row += 1
            if admitted == "probe" or (self._in_a_row >= self.policy.failures and self._opened_at is None):
                self._opened_at = time.monotonic()


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
        raise UserError(
            "base_url holds more than an address; a key belongs into the variable that api_key_env names, and what "
            "stands behind ? into dialect.query"
        )
    return base_url.rstrip("/")


def key_from(variable: str | None) -> str | None:
    """The API key in an environment variable; None where none is named.

    Raises:
        UserError: if the variable is not set, or holds what cannot be a key. Its value is not shown.
    """
    if variable is None:
        return None
    key = _from_environment(variable, "api_key_env", "the key")
    if " " in key:
        raise UserError(f"the environment variable {variable} holds characters that no key has; export the key alone")
    return key


def headers_from(variables: Mapping[str, str]) -> dict[str, str]:
    """The headers whose values are in these environment variables.

    Raises:
        UserError: if one is not set, or holds what cannot be a header's value. It is not shown.
    """
    return {
        name: _from_environment(variable, f"dialect.headers.{name}", "its value")
        for name, variable in variables.items()
    }


def _from_environment(variable: str, setting: str, what: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise UserError(f"the environment variable {variable}, which {setting} names, is not set; export {what} in it")
    if not value.isascii() or not value.isprintable():
        raise UserError(f"the environment variable {variable} holds characters that no key has; export {what} alone")
    return value


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

    Args:
        base_url: address up to and with /v1.
        model: its name there.
        key: the API key, if the server wants one.
        headers: further headers with their values.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str | None,
        timeouts: Timeouts,
        dialect: Dialect,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._base_url, self._query = base_url, f"?{urlencode(dialect.query)}" if dialect.query else ""
        self.url, self.model = self._address("chat/completions"), model
        self.timeouts, self.dialect = timeouts, dialect
        self.structure = STRUCTURES[0] if dialect.structure == "auto" else dialect.structure
        self.system_role = "system" if dialect.system_role == "auto" else dialect.system_role
        self._system_heard = False  # whether a message of the system was ever taken
        further = dict(headers or {})
        hidden = {value for value in further.values() if len(value) >= HIDDEN_FROM} | ({key} if key else set())
        self._secrets = sorted(hidden, key=len, reverse=True)  # one may be a part of another
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self._headers = {"Content-Type": "application/json", **authorization, **further}
        self._session = self._new_session(aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S))
        self._once = self._new_session(aiohttp.TCPConnector(limit=0, force_close=True))  # a new connection each call

    def _address(self, path: str) -> str:
        return f"{self._base_url}/{path}{self._query}"

    def _new_session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(self.timeouts.whole_s, self.timeouts.connect_s, self.timeouts.first_byte_s),
            proxy=proxy_from(self.url),
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=connector,
        )

    async def close(self) -> None:
        await self._session.close()
        await self._once.close()

    async def call(self, request: Request, by_user: bool = False) -> Outcome:
        """Make the call; never raises for what the network or the server does.

        Args:
            by_user: the user says the words of the system, this once. The server has just raised, and is about to
                close that connection: this call has one of its own.
        """
        if isinstance(request, CompletionRequest):
            return await self._chat(request, by_user)
        if isinstance(request, TokenRequest):
            given = await self._post(self._address("completions"), self.dialect.token_body(self.model, request))
            return given if isinstance(given, Outcome) else read_answer(*given, self._safe, tokens=True)
        fields = {"lora_name": request.name} | ({} if request.folder is None else {"lora_path": request.folder})
        verb = "unload" if request.folder is None else "load"
        given = await self._post(self._address(f"{verb}_lora_adapter"), fields)
        if not isinstance(given, Outcome) and 200 <= given[0] < 300:  # what else it says is for people
            return Outcome(text="", tokens=(0, 0))
        return given if isinstance(given, Outcome) else read_answer(*given, self._safe)

    async def _post(
        self, url: str, fields: Mapping[str, Any], session: aiohttp.ClientSession | None = None
    ) -> tuple[int, bytes, float | None] | Outcome:
        """Status, body and seconds to wait of an answer; the outcome of a call that was not answered."""
        content = json.dumps(fields).encode()
        try:
            async with (session or self._session).post(url, data=content, allow_redirects=False) as response:
                return response.status, await response.read(), _asked_s(response.headers)
        except TimeoutError as error:
            return self._too_late(error)
        except aiohttp.ClientError as error:
            return self._broken(error)

    async def _chat(self, request: CompletionRequest, by_user: bool) -> Outcome:
        structure, system_role = self.structure, "user" if by_user else self.system_role
        body = self.dialect.body(self.model, request, structure, system_role)
        given = await self._post(self.url, body, self._once if by_user else None)
        if isinstance(given, Outcome):
            return given
        answer, outcome = given[1], read_answer(*given, self._safe)
        if outcome.status in REFUSED_FORM and (
            self._asks_for_less(request, outcome.status, answer, structure)
            or self._gives_words_to_the_user(request, answer, system_role)
        ):
            return replace(outcome, at_once=True)
        if self._hides_why(request, outcome.status, answer, system_role):
            return replace(outcome, at_once=True, by_user=True)
        self._system_heard |= outcome.charged and system_role != "user" and _has_system(request)
        return outcome

    def _broken(self, error: aiohttp.ClientError) -> Outcome:
        sent = not isinstance(error, _NOTHING_SENT)
        said = self._safe(str(error)) or type(error).__name__
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

    def _asks_for_less(self, request: CompletionRequest, status: int, answer: bytes, asked: str) -> bool:
        """Whether the server refused the way a schema was asked for, and there is another way."""
        may = request.schema and self.dialect.structure == "auto" and asked != STRUCTURES[-1]
        if not may or status == 500 or not UNKNOWN_FORMAT.search(answer):
            return False
        if self.structure == asked:  # another call may have found out first
            self.structure = STRUCTURES[STRUCTURES.index(asked) + 1]
        return True

    def _gives_words_to_the_user(self, request: CompletionRequest, answer: bytes, asked: str) -> bool:
        """Whether the server refused a message of the system, whose words the user can say."""
        may = _has_system(request) and self.dialect.system_role == "auto" and asked != "user"
        if not may or not UNKNOWN_ROLE.search(answer):
            return False
        self.system_role = "user"
        return True

    def _hides_why(self, request: CompletionRequest, status: int | None, answer: bytes, asked: str) -> bool:
        """Whether a refusal may be one of the system, though it does not say so.

        Nothing is remembered of it, for the server may have failed for another reason. A server that took a message of
        the system before has failed for another one.
        """
        may = _has_system(request) and self.dialect.system_role == "auto" and asked != "user"
        return may and status == 500 and not self._system_heard and bool(UNEXPLAINED.fullmatch(answer))

    def _safe(self, text: str) -> str:
        """Without our key and headers, should the server repeat them."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _has_system(request: CompletionRequest) -> bool:
    return any(message.role == "system" for message in request.messages)


def _asked_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the headers of an answer ask to wait."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (thousandths := retry_after_s(headers.get(name))) is not None:
            return thousandths / 1000.0
    return retry_after_s(headers.get("Retry-After"))


Deliver = Callable[[int, Reply | Failure], None]


@dataclass
class RequestState:
    """One request on its way: what it has taken so far, since its first call was let through.

    Attributes:
        by_user: the next call is made with the words of the system said by the user.
    """

    request: Request
    began: float | None = None
    usage: Usage = Usage()
    timeouts: int = 0
    admitted: Pass | None = None
    by_user: bool = False

    def add(self, call: UsageTotals, priced: bool) -> None:
        """Count a call that was made."""
        used = self.usage
        self.usage = replace(
            used,
            prompt_tokens=used.prompt_tokens + call.prompt_tokens,
            completion_tokens=used.completion_tokens + call.completion_tokens,
            cost=(used.cost or 0.0) + call.cost if priced else None,
            attempts=used.attempts + 1,
        )

    def final_usage(self) -> Usage:
        return replace(self.usage, latency_s=0.0 if self.began is None else time.monotonic() - self.began)


class RequestScheduler:
    """Serves requests of one endpoint, from any number of `serve` calls; lives on the event loop of its limits."""

    def __init__(
        self,
        name: str,
        caller: Caller,
        limits: "SharedLimits",
        policy: RetryPolicy,
        spending: Spending,
        price: Price | None,
    ) -> None:
        self.name, self.caller, self.policy, self.spending, self.price = name, caller, policy, spending, price
        self.limiter, self.breaker = limits.limiter, limits.breaker
        self.workers = 4 * limits.traffic.concurrency  # more than slots: some requests wait for their retry
        self._serving: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self.caller.close()

    async def serve(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """Answer all, each as soon as it can be."""
        left = iter(enumerate(requests))
        serving = asyncio.current_task()
        assert serving is not None  # a coroutine runs in a task
        self._serving.add(serving)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.workers, len(requests))):
                    group.create_task(self._work(left, deliver))
        except* (UserError, OSError) as errors:  # the file of the spending is damaged, or its disk is full
            raise errors.exceptions[0] from None
        finally:
            self._serving.discard(serving)

    async def _work(self, left: Iterator[tuple[int, Request]], deliver: Deliver) -> None:
        for index, request in left:
            deliver(index, await self._answer(request))

    async def _answer(self, request: Request) -> Reply | Failure:
        """Call until the request is answered, or until there is a reason to give it up."""
        state, outcome = RequestState(request), Outcome()
        try:
            outcome = await self.policy.retrying()(self._attempt, state)
        finally:  # an abandoned probe makes room for the next
            if state.admitted:
                self.breaker.ended(state.admitted, outcome)
        if outcome.text is not None:
            return Reply(outcome.text, state.final_usage(), outcome.cut, outcome.drawn)
        return Failure(outcome.kind or "malformed", outcome.reason, state.final_usage(), outcome.status)

    async def _attempt(self, state: RequestState) -> Outcome:
        """One call, or several where the server refuses the way a schema is asked for; its retry only if it may be."""
        async with self.limiter.slots:
            state.began = state.began or time.monotonic()  # before that it waited for others, not for the server
            state.admitted = self.breaker.admits()
            if state.admitted is None:
                wait_s, failures = self.breaker.probe_in_s, self.breaker.policy.failures
                reason = f"the endpoint failed {failures} times in a row; next try in {wait_s:.0f} s"
                return Outcome(kind="circuit", reason=reason)
            while (outcome := await self._call(state)).at_once:
                pass
        if outcome.text is not None or outcome.kind == "budget":
            return outcome
        state.timeouts += outcome.kind == "timeout"
        asked_s = outcome.retry_after_s or 0.0
        too_long = outcome.retry and asked_s > self.policy.retry_after_max_s
        reason = f"{outcome.reason} after {state.usage.attempts} calls" if state.usage.attempts > 1 else outcome.reason
        reason += f"; the server asks to wait {asked_s:.0f} s" if too_long else ""
        over = too_long or state.timeouts > self.policy.timeout_retries or state.admitted == "probe"
        return replace(outcome, reason=reason, retry=outcome.retry and not over)

    async def _call(self, state: RequestState) -> Outcome:
        """One call within rates and budget."""
        likely, reserved = likely_tokens(state.request), self._reservation(state.request)
        await self.limiter.admit(likely)
        while (room := self.spending.reserve(self.name, reserved)) is None:
            await asyncio.sleep(BUDGET_POLL_S)
        if not room:
            self.limiter.correct(likely, 0)
            return Outcome(kind="budget", reason=f"the budget is used up: {self.spending.state()}; raise it to go on")
        outcome = Outcome(charged=True)  # a call that is abandoned on its way may be charged all the same
        try:
            outcome = await self.caller.call(state.request, state.by_user)
            state.by_user = outcome.by_user
            return outcome
        finally:
            call = self._totals(outcome, reserved)
            self.spending.settle(self.name, reserved, call)
            self.limiter.correct(likely, call.most_tokens if not call.unmetered_calls else likely)
            state.add(call, priced=self.price is not None)

    def _reservation(self, request: Request) -> Reservation:
        most, written = most_tokens(request), 0 if isinstance(request, AdapterRequest) else request.max_tokens
        cost = self.price.of(most - written, written) if self.price else 0.0
        return Reservation(most, cost)

    def _totals(self, outcome: Outcome, reserved: Reservation) -> UsageTotals:
        """What a call came to."""
        if outcome.tokens:
            cost = self.price.of(*outcome.tokens) if self.price else 0.0
            return UsageTotals(1, *outcome.tokens, cost)
        if outcome.charged:
            return reserved.unbilled()
        return UsageTotals(1)


class SharedLimits:
    """What all endpoints of a process that ask one model at one address share: rates, slots, circuit breaker, budget.

    They hold while an endpoint that has them is neither closed nor gone. They live on one event loop, on a daemon
    thread that runs while at least one of these endpoints is in use.
    """

    _registry: ClassVar[dict[tuple[int, str, str], "SharedLimits"]] = {}
    _lock = threading.RLock()  # reentrant: a garbage collection may end another endpoint in the middle of this one

    def __init__(self, traffic: Traffic, breaker: BreakerPolicy, spending: Spending) -> None:
        self.traffic, self.breaker, self.spending = traffic, CircuitBreaker(breaker), spending
        self.limiter: RateLimiter
        self.endpoints: weakref.WeakSet[Endpoint] = weakref.WeakSet()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, endpoint: "Endpoint") -> "SharedLimits":
        """Those of an endpoint's model and address in this process; a fork has its own.

        Raises:
            UserError: if another endpoint that is not closed has other limits.
        """
        with cls._lock:
            key = (os.getpid(), endpoint.base_url, endpoint.model)
            shared = cls._registry.get(key)
            if shared is None or not shared.endpoints:
                shared = cls._registry[key] = cls(endpoint.traffic, endpoint.breaker, endpoint.spending)
            pairs: list[tuple[Settings, Settings]] = [
                (shared.traffic, endpoint.traffic),
                (shared.breaker.policy, endpoint.breaker),
            ]
            if shared.spending.log.path == endpoint.spending.log.path:
                pairs.append((shared.spending.budget, endpoint.spending.budget))
            for one, other in pairs:
                if one != other:
                    raise UserError(
                        f"two endpoints ask {endpoint.name} with different {one.section}, {one!r} and {other!r}; it is "
                        "one account with one limit: give both the same, or close the first before the second is made"
                    )
            shared.endpoints.add(endpoint)
        return shared

    def enter(self, build: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `build` on the event loop, which is started for its first user; each must `leave`."""
        with self._lock:
            self._users += 1
            if self._loop is None:
                self._loop, self.limiter = asyncio.new_event_loop(), RateLimiter(self.traffic.of_each(processes()))
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="endpoint", daemon=True)
                self._thread.start()
        try:
            return self.submit(build()).result()
        except BaseException:
            self.leave()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        assert self._loop is not None  # whoever submits has entered
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def leave(self, scheduler: RequestScheduler | None = None) -> None:
        """Close the user's connections, and end the thread if nobody else uses it."""
        with self._lock:
            loop, thread, closed = self._loop, self._thread, self.submit(scheduler.close()) if scheduler else None
            assert loop is not None and thread is not None
            self._users -= 1
            last = self._users == 0
            if last:
                self._loop = self._thread = None
        here = threading.current_thread() is thread  # a garbage collection may run there, which cannot wait for itself
        if closed and not here:
            closed.result()
        if last and closed and here:
            closed.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        elif last:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


class Endpoint:
    """Implements `Completer`; may be used from several threads, and by forked processes each for itself.

    Endpoints of one process with the same address and model share one rate limiter, one circuit breaker and one budget,
    and one usage log where their spending has the same file or none: together they stay within these limits.
    So they must be given the same `traffic`, `breaker` and budget; everything else may differ.

    Args:
        base_url: address up to and with /v1.
        model: its name there.
        api_key_env: name of the environment variable that holds the key; None where the server wants none.
        price: `input` and `output` for a million tokens; None looks the model up in the price list.

    Raises:
        UserError: if the address, the price or a budget cannot be meant, or another endpoint that is not closed has
            other limits for the same model at the same address.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str | None,
        api_key_env: str | None = None,
        traffic: Traffic | None = None,
        timeouts: Timeouts | None = None,
        retries: RetryPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        spending: Spending | None = None,
        price: Mapping[str, float] | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        self.base_url, self.model, self.api_key_env = checked_address(base_url), model or "", api_key_env
        if not model:
            raise UserError(f"no model is set for the endpoint {self.base_url}; give the name that it goes by there")
        self.traffic, self.timeouts = traffic or Traffic(), timeouts or Timeouts()
        self.retries, self.breaker = retries or RetryPolicy(), breaker or BreakerPolicy()
        self.spending, self.dialect = spending or Spending(), dialect or Dialect()
        if api_key_env and "authorization" in map(str.lower, self.dialect.headers):
            raise UserError("both api_key_env and dialect.headers give an Authorization; keep one of them")
        self._given_price = price
        self.price = price_of(model, price)
        if self.price is None and self.spending.budget.max_cost is not None:
            raise UserError(
                f"max_cost is set but the price of {model} is unknown; give price={{input: ..., output: ...}} in money "
                "for a million tokens, or a budget in max_tokens"
            )
        self._starting = threading.Lock()
        self._limits = self._shared()  # from now on, so that contradicting limits are seen before anything is asked
        self._open: tuple[int, SharedLimits, RequestScheduler] | None = None
        self._finalizer: weakref.finalize[..., Endpoint] | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"

    def __reduce__(self) -> tuple[type["Endpoint"], tuple[Any, ...]]:
        """Sent to another process, it is opened there anew."""
        who = (self.base_url, self.model, self.api_key_env, self.traffic, self.timeouts, self.retries)
        return Endpoint, (*who, self.breaker, self.spending, self._given_price, self.dialect)

    @property
    def name(self) -> str:
        return f"{self.model} at {self.base_url}"

    @property
    def recipe(self) -> dict[str, Any]:
        return self.dialect.recipe()

    def complete(
        self,
        requests: Sequence[Request],
        on_answer: Callable[[int, Reply | Failure], None] | None = None,
    ) -> list[Reply | Failure]:
        """One answer a request, in order; see `Completer`.

        An exception of `on_answer`, or an interrupt, abandons what is under way and is passed on.

        Raises:
            UserError: if the key is not in the environment, or the file of the spending cannot be read.
        """
        if not requests:
            return []
        limits, scheduler = self._opened()
        answers: dict[int, Reply | Failure] = {}
        arrivals: SimpleQueue[tuple[int, Reply | Failure] | Future[None]] = SimpleQueue()
        serving = limits.submit(scheduler.serve(requests, lambda index, answer: arrivals.put((index, answer))))
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
        """End the connections, and the thread if no other endpoint needs it; the next request opens them again."""
        with self._starting:
            if self._finalizer:
                self._finalizer()
            self._limits.endpoints.discard(self)
            self._open = None

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shared(self) -> SharedLimits:
        """The limits of this process; those of endpoints with the same file of the spending have one spending."""
        limits = SharedLimits.of(self)
        if limits.spending.log.path == self.spending.log.path:
            self.spending = limits.spending
        return limits

    def _opened(self) -> tuple[SharedLimits, RequestScheduler]:
        with self._starting:
            if self._open is None or self._open[0] != os.getpid():  # a fork has the object, but not the thread
                key, headers = key_from(self.api_key_env), headers_from(self.dialect.headers)
                limits = self._limits = self._shared()
                scheduler = limits.enter(lambda: self._scheduler(key, headers, limits))
                self._open = (os.getpid(), limits, scheduler)
                self._finalizer = weakref.finalize(self, _close, os.getpid(), limits, scheduler)
            return self._open[1:]

    async def _scheduler(self, key: str | None, headers: dict[str, str], limits: SharedLimits) -> RequestScheduler:
        """Built on the loop, where its connections belong."""
        caller = Caller(self.base_url, self.model, key, self.timeouts, self.dialect, headers)
        return RequestScheduler(self.name, caller, limits, self.retries, self.spending, self.price)


def _close(pid: int, limits: SharedLimits, scheduler: RequestScheduler) -> None:
    if pid == os.getpid():
        limits.leave(scheduler)
