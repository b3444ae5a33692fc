"""Who may come in: the host and origin that a request names, its token, and how often its client has asked lately."""

import hmac
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

from starlette.requests import Request

from emodistill.checks import check_number
from emodistill.errors import UserError
from emodistill.serving.protocol import Refusal

TOKEN = "EMODISTILL_TOKEN"  # the environment variable
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OPEN = ("/", "/page.js", "/page.css", "/health")  # no secret there: a page has to load before it has a token
_CLIENTS = 10_000  # whose rates are remembered


@dataclass
class Gate:
    """
    Args:
        token: that clients have to know; None lets everybody in.
        hosts: names under which the server may be asked; None allows every name. A page elsewhere whose name was made
            to point here (DNS rebinding) asks under its own.
        per_minute: requests of one client; None does not count.
    """

    token: str | None
    hosts: Collection[str] | None
    per_minute: float | None
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        check_number("per_minute", self.per_minute, 1, null="for no limit")

    def check(self, request: Request) -> None:
        """
        Raises:
            Refusal: 403, 401 or 429.
        """
        if self.hosts is not None and _name(request.headers.get("host", "")) not in self.hosts:
            raise Refusal(403, "host", "this server is not asked under that name; add it to hosts=[...] of serve.py")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            raise Refusal(403, "origin", "pages of other servers may not use this one")
        if request.url.path in _OPEN:
            return
        if self.token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            known = hmac.compare_digest(given.encode(), self.token.encode())
            if scheme.lower() != "bearer" or not known:
                raise Refusal(401, "invalid_api_key", "the token is missing or wrong; send it as a bearer token")
        if request.method == "POST":
            self._take(request.client.host if request.client else "")

    def _take(self, client: str) -> None:
        """One request of a client: a bucket that holds a minute's requests and fills steadily."""
        if self.per_minute is None:
            return
        now = time.monotonic()
        left, since = self._buckets.pop(client, (self.per_minute, now))
        left = min(left + (now - since) * self.per_minute / 60, self.per_minute)
        if left < 1:
            self._buckets[client] = (left, now)
            wait = (1 - left) * 60 / self.per_minute
            raise Refusal(429, "rate_limit", f"at most {self.per_minute:g} requests a minute; wait", None, wait)
        self._buckets[client] = (left - 1, now)
        while len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)


def check_exposed(host: str, token: str | None) -> None:
    """Refuse to listen where others can reach it without asking them for a token.

    Raises:
        UserError: naming the environment variable.
    """
    if host not in LOOPBACK and not token:
        raise UserError(
            f"host={host}: others could reach this server; set the environment variable {TOKEN} to a secret that its "
            "clients send, or leave host=127.0.0.1"
        )


def _name(host: str) -> str:
    """A `Host` header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
