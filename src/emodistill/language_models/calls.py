"""One call to a chat-completions server, with its time-outs; whatever happens becomes an `Outcome`."""

import json
import os
import re
from dataclasses import replace
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from emodistill.errors import UserError
from emodistill.language_models.completion import CompletionRequest
from emodistill.language_models.dialect import STRUCTURES, Dialect
from emodistill.language_models.replies import Outcome, read_refusal, read_reply
from emodistill.language_models.retries import retry_after_s
from emodistill.language_models.traffic import Timeouts

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
