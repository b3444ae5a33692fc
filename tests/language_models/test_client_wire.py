"""What goes over the wire, and what may come back: bytes that are no HTTP are a failure with its reason."""

import gzip
import json
import socket
import threading
from contextlib import contextmanager

import pytest
from endpoints import ask, endpoint
from faulty_server import FaultyServer

from emodistill.errors import UserError
from emodistill.language_models.client import RetryPolicy
from emodistill.language_models.completion import Failure, Reply

ONCE = RetryPolicy(max_retries=0)
WHOLE = json.dumps({"choices": [{"message": {"content": "hello"}}]}).encode()


class Wire:
    """A server that reads one request a connection and sends bytes as they are given."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def serve(self):
        for answer in self.answers:
            connection, _ = self._listening.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request or not request.rstrip().endswith((b"}", b"\r\n\r\n")):
                    request += connection.recv(65536)
                self.requests.append(request)
                connection.sendall(answer)

    @classmethod
    @contextmanager
    def sending(cls, *answers):
        wire = cls(*answers)
        thread = threading.Thread(target=wire.serve)
        thread.start()
        try:
            yield wire
        finally:
            thread.join()
            wire._listening.close()


def http(body, *headers, status="200 OK"):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


BROKEN = {
    "nothing at all": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "half a status line": b"HTTP/1.1 20",
    "a header without an end": b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "a body cut off": http(WHOLE)[:-5],
    "garbage that claims to be gzip": http(b"not compressed", "Content-Encoding: gzip"),
    "half of a gzip": http(gzip.compress(WHOLE)[:-12], "Content-Encoding: gzip"),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_bytes_that_are_no_reply_are_a_failure_that_may_have_cost(answer):
    with Wire.sending(answer) as wire, endpoint(wire, retries=ONCE) as client:
        (got,) = client.complete([ask()])
        assert isinstance(got, Failure) and got.reason and got.kind in ("connection", "malformed")
        assert got.usage.attempts == 1 and client.spending.of(client.name).unmetered_calls == 1


@pytest.mark.parametrize(
    "answer", [http(WHOLE), http(gzip.compress(WHOLE), "Content-Encoding: gzip")], ids=["plain", "gzip"]
)
def test_whole_replies_are_read(answer):
    with Wire.sending(answer) as wire, endpoint(wire, retries=ONCE) as client:
        (got,) = client.complete([ask()])
        assert isinstance(got, Reply) and got.text == "hello"


def test_a_call_on_a_broken_connection_is_made_once_for_each_attempt():
    """Libraries that repeat a call on their own pay twice for it and say nothing."""
    with Wire.sending(b"", http(WHOLE)) as wire, endpoint(wire) as client:
        (got,) = client.complete([ask()])
        assert isinstance(got, Reply) and got.usage.attempts == len(wire.requests) == 2


def test_no_cookie_and_no_netrc_is_sent(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with (
        Wire.sending(http(WHOLE, "Set-Cookie: who=me"), http(WHOLE)) as wire,
        endpoint(wire, retries=ONCE) as client,
    ):
        client.complete([ask()])
        client.complete([ask()])
    for request in wire.requests:
        names = {line.split(b":")[0].lower() for line in request.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
        assert names == {b"host", b"accept", b"accept-encoding", b"user-agent", b"content-type", b"content-length"}


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used(monkeypatch, variable):
    _no_proxies(monkeypatch)
    with FaultyServer() as proxy:
        monkeypatch.setenv(variable, proxy.base_url.removesuffix("/v1"))
        with endpoint(proxy, base_url="http://model.invalid/v1") as client:
            assert isinstance(client.complete([ask()])[0], Reply)
    assert proxy.log[0].headers["host"] == "model.invalid"


def test_a_proxy_is_not_used_where_the_environment_says_so(monkeypatch):
    _no_proxies(monkeypatch)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FaultyServer() as server, endpoint(server) as client:
        assert isinstance(client.complete([ask()])[0], Reply)


def test_a_proxy_of_a_kind_that_is_not_spoken_is_refused_without_its_password(monkeypatch):
    _no_proxies(monkeypatch)
    monkeypatch.setenv("http_proxy", "socks5://me:secret@127.0.0.1:1080")
    with (
        FaultyServer() as server,
        endpoint(server) as client,
        pytest.raises(UserError, match=r"NO_PROXY=127\.0\.0\.1") as raised,
    ):
        client.complete([ask()])
    assert "secret" not in str(raised.value)


def test_a_proxy_that_is_not_there_keeps_its_password(monkeypatch):
    _no_proxies(monkeypatch)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:1")
    with FaultyServer() as server, endpoint(server, retries=ONCE) as client:
        (got,) = client.complete([ask()])
    assert got.kind == "connection" and "secret" not in got.reason and server.calls == 0


def _no_proxies(monkeypatch):
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
