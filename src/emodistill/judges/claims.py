"""Which judgements are being asked for at this moment in this process, so that no two threads pay for the same one.

Claims belong to a file: two `Ledger` objects on one path share them. Other processes do not see them; if two of those
ask the same thing at once, both pay, and the first score stays.
"""

import threading
from collections.abc import Collection
from pathlib import Path


class Claims:
    """Keys held by threads. A thread may take again what it holds: a judge may ask the ledger it is asked by."""

    def __init__(self) -> None:
        self._holder: dict[str, int] = {}
        self._freed = threading.Condition()

    def take(self, keys: Collection[str]) -> list[str]:
        """Hold those of the keys that no other thread holds, and return them; never waits."""
        me = threading.get_ident()
        with self._freed:
            free = [key for key in keys if self._holder.get(key, me) == me]
            self._holder.update(dict.fromkeys(free, me))
            return free

    def release(self, keys: Collection[str]) -> None:
        """Let go of keys and wake who waits for them."""
        with self._freed:
            for key in keys:
                self._holder.pop(key, None)
            self._freed.notify_all()

    def wait(self, keys: Collection[str]) -> None:
        """Return once none of the keys is held by another thread."""
        me = threading.get_ident()
        with self._freed:
            self._freed.wait_for(lambda: all(self._holder.get(key, me) == me for key in keys))


_OF_FILE: dict[Path, Claims] = {}
_GUARD = threading.Lock()


def claims_on(path: Path) -> Claims:
    """The claims on a file, the same object for the same file."""
    with _GUARD:
        return _OF_FILE.setdefault(path.resolve(), Claims())
