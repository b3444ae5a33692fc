"""How `FaultyServer` answers: what faults do to a reply, and how bytes leave or do not."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

LOST = ("reset", "truncated")  # the model ran, and its bill never arrives
QUOTA = {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}


def spoilt(envelope: dict[str, Any], fault: str | None) -> bytes:
    """The bytes of a reply after what a fault does to it."""
    message = envelope["choices"][0]["message"]
    if fault == "wrong_schema":
        message["content"] = json.dumps({"verdict": "fine"})
    elif fault == "out_of_range":
        message["content"] = json.dumps({"score": 99, "reason": "far too good"})
    elif fault == "no_choices":
        envelope["choices"] = []
    content = json.dumps(envelope).encode()
    if fault == "truncated":
        return content[: len(content) // 2]
    return b"<html>502 Bad Gateway</html>" if fault == "invalid_json" else content


async def respond(
    send: Callable[[Any], Any], status: int, content: bytes, headers: dict[str, str] | None = None, cut: bool = False
) -> None:
    """Send a response; a `cut` one stops in its middle, and the connection with it."""
    fields = {"content-type": "application/json", "content-length": str(len(content)), **(headers or {})}
    encoded = [(key.encode(), value.encode()) for key, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    if cut:
        await send({"type": "http.response.body", "body": content[: len(content) // 2], "more_body": True})
        raise ConnectionAbortedError
    await send({"type": "http.response.body", "body": content})


async def gone(receive: Callable[[], Any], wait_s: float) -> bool:
    """Wait so long, or until the client leaves; whether it left."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while (await receive())["type"] != "http.disconnect":
                pass
            return True
    return False
