"""The process: it listens, and on SIGTERM or SIGINT finishes what runs, refuses the rest and ends with status 0."""

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from emodistill.checks import is_whole
from emodistill.errors import UserError

_CONNECTIONS = 2048  # at a time; more are refused without being read
_LAST_PORT = 65535
_IDLE_S = 30  # that a connection is kept open between two requests


class Server(uvicorn.Server):
    """
    Args:
        on_stop: called once on the event loop when the process is told to stop.
    """

    def __init__(self, app: ASGIApp, on_stop: Callable[[], None]) -> None:
        settings: dict[str, Any] = {
            "log_config": None,
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "proxy_headers": False,  # X-Forwarded-For is what a client says of itself
            "ws": "none",
        }
        settings |= {"lifespan": "on", "limit_concurrency": _CONNECTIONS, "timeout_keep_alive": _IDLE_S}
        super().__init__(uvicorn.Config(app, **settings))
        self.on_stop = on_stop

    def listen(self, listening: socket.socket) -> None:
        """Serve until the process is told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it is done
            signal.signal(number, lambda *_: None)
        self.run([listening])

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.loop.call_soon_threadsafe(self.on_stop)  # a signal comes at any moment, between any two operations
        super().handle_exit(sig, frame)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        UserError: if host or port cannot be had.
    """
    if not is_whole(port, 0) or port > _LAST_PORT:
        raise UserError(f"port={port}: a port is a whole number from 0 to {_LAST_PORT}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(f"host={host} port={port}: cannot listen there ({error}); choose another port=") from error
