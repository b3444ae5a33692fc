"""Pieces: parts of a larger work that can be done anywhere and in any order, but for what one takes from another.

A piece is named by the hash of all that fixes its result. The result is a file or a folder, written whole or not at
all. So the disk alone says what is missing: a plan is made anew by every command, and whoever carries it out keeps
nothing that the files do not say. A death costs the pieces under way.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from emodistill.errors import UserError
from emodistill.lazy import loading
from emodistill.progress import progress

Advance = Callable[[float], None]  # takes the steps that were done since the last call
Work = Callable[..., None]  # does a piece: called with `*piece.task` and the keyword `advance`


def digest(fixed: Any) -> str:
    """Sixteen hex digits over plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Needs:
    """What carrying out a piece takes.

    Attributes:
        model: a language model computes: on a GPU where there is one, else on several cores.
        seconds: about how long it takes on one core; work of a few seconds is not worth another process.
    """

    model: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Piece:
    """One piece.

    Attributes:
        name: hash of what fixes the result.
        title: what messages call it.
        open: makes what does it, e.g. loads a model; can be pickled where several processes share the work.
        kit: name of what `open` makes. A worker opens a kit once and keeps it while the next pieces have the same.
        task: arguments of the work.
        done: whether the result is there, from files alone.
        size: steps on the bar of progress.
        after: names of pieces that this one takes something from.
    """

    name: str
    title: str
    open: Callable[[], Work]
    kit: str
    task: tuple[Any, ...]
    done: Callable[[], bool]
    size: float = 1.0
    after: tuple[str, ...] = ()
    needs: Needs = Needs()


class Executor(Protocol):
    """Carries out pieces."""

    def run(self, title: str, pieces: Sequence[Piece]) -> None:
        """Do all pieces, each after those that it names; one that is not among them counts as done.

        Raises:
            UserError: at once, where a piece ends with one, or loses its worker again and again.
            KeyboardInterrupt: where the user stops it; what is finished stays.
        """


class OneAfterOther:
    """Does all pieces in this process, in order."""

    def run(self, title: str, pieces: Sequence[Piece]) -> None:
        bench = Bench()
        with progress(title, sum(piece.size for piece in pieces)) as advance:
            for piece in pieces:
                left = piece.size

                def step(steps: float) -> None:
                    nonlocal left
                    left -= steps
                    advance(steps)

                bench.do(piece.open, piece.kit, piece.task, step)
                advance(left)


class Bench:
    """Does pieces one by one in this process, and keeps the last kit between them."""

    def __init__(self) -> None:
        self._kit: str | None = None
        self._work: Work | None = None

    def do(self, open_kit: Callable[[], Work], kit: str, task: Sequence[Any], advance: Advance) -> None:
        if self._work is None or kit != self._kit:
            self._work = None  # lets go of one model before the next is loaded
            with loading():
                self._kit, self._work = kit, open_kit()
        self._work(*task, advance=advance)


@dataclass(frozen=True)
class Share:
    """The `number`-th of `count` shares of a plan, from 1: every `count`-th piece of it, whatever is done already.

    Several commands with the shares 1/n to n/n do a plan together, on any machines that share its folder.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def slug(self) -> str:
        """Name of a file or folder of this share."""
        return f"share-{self.number}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Read `i/n`.

        Raises:
            UserError: if it is not that, with 1 <= i <= n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", str(text))
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"shard={text}: write i/n, from 1/n to n/n, for example shard=1/4")
        return cls(int(match[1]), int(match[2]))

    def of(self, pieces: Sequence[Piece]) -> list[Piece]:
        return list(pieces[self.number - 1 :: self.count])


@dataclass(frozen=True)
class Plan:
    """What one command does of a whole.

    Attributes:
        now: the pieces to do, in an order in which each comes after those that it takes something from.
        waiting: those of the share that take something from pieces of other shares which are not done yet.
    """

    now: Sequence[Piece]
    waiting: Sequence[Piece] = ()


def plan(pieces: Sequence[Piece], share: Share | None = None) -> Plan:
    """What is missing of the pieces of a share; of all of them where there is none.

    Args:
        pieces: the whole, in an order in which each comes after those that it takes something from. It must be the
            same list for every share.
    """
    ours = share.of(pieces) if share else pieces
    asked = {name for piece in ours for name in (piece.name, *piece.after)}  # thousands of shares ask the same disk
    missing = {piece.name for piece in pieces if piece.name in asked and not piece.done()}
    now: dict[str, Piece] = {}
    waiting = []
    for piece in ours:
        if piece.name in missing and piece.name not in now:
            if all(name in now or name not in missing for name in piece.after):
                now[piece.name] = piece
            else:
                waiting.append(piece)
    return Plan(list(now.values()), waiting)
