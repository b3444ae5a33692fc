"""Which piece goes to which worker next: the same for every engine, and without processes or a clock.

A worker is given a piece with the kit that it has; else one whose kit no other worker has, so that few workers open the
same; else one of the kit with most pieces a worker, so that workers seldom change. What was lost with its worker comes
before everything else. A choice looks at no more than one piece of each kit, however many there are: those that can be
done now are kept in heaps, one a kit, and so are the kits.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush

from emodistill.execution.pieces import Piece


class Dispatch:
    """What is left of the pieces of one run, and who has which kit.

    Args:
        pieces: all of them; one that another one names with `after` and that is not among them counts as done.
        retries: how often a piece that lost its worker is done again.

    Attributes:
        unfinished: names of the pieces that are not done.
        ready: how many can be done now and are with no worker.
        losses: workers lost, by the name of the piece.
    """

    def __init__(self, pieces: Sequence[Piece], retries: int) -> None:
        self.retries, self.ready, self.losses = retries, 0, Counter[str]()
        self.unfinished = {piece.name for piece in pieces}
        self._awaiting: dict[str, list[Piece]] = defaultdict(list)  # by the name of what they take something from
        self._lacking: dict[str, int] = {}  # how many pieces a piece waits for
        self._place = {piece.name: place for place, piece in enumerate(pieces)}
        self._front = -1  # the place of what is lost next
        self._of_kit: dict[str, list[tuple[int, Piece]]] = defaultdict(list)  # heaps of what is ready
        self._kits: list[tuple[int, str]] = []  # heap of kits by the place of their first piece; some are out of date
        self._unheld: list[tuple[int, str]] = []  # the same of those that no worker has
        self._holders = Counter[str]()
        for piece in pieces:
            before = self.unfinished.intersection(piece.after)
            for name in before:
                self._awaiting[name].append(piece)
            if before:
                self._lacking[piece.name] = len(before)
            else:
                self._add(self._place[piece.name], piece)

    def take(self, kit: str | None) -> Piece | None:
        """The next piece for a worker that has a kit, or has none yet; it has that of the piece from now on.

        Returns:
            None where nothing can be done now.
        """
        chosen = kit if kit is not None and self._of_kit.get(kit) else self._first(self._unheld, only_unheld=True)
        chosen = chosen if chosen is not None else self._fullest()
        if chosen is None:
            return None
        if chosen != kit:
            self.let_go(kit)
            self._holders[chosen] += 1
        return self._pop(chosen)

    def take_first(self) -> Piece | None:
        """The next piece in order, for an engine that chooses the worker itself; None where nothing can be done now."""
        chosen = self._first(self._kits)
        return None if chosen is None else self._pop(chosen)

    def done(self, piece: Piece) -> None:
        """A piece is finished: those that waited for it alone can be done."""
        self.unfinished.discard(piece.name)
        for other in self._awaiting.pop(piece.name, ()):
            self._lacking[other.name] -= 1
            if not self._lacking[other.name]:
                self._add(self._place[other.name], other)

    def lost(self, piece: Piece) -> bool:
        """A piece has lost its worker, and comes next; False if it has lost too many to be done again."""
        self.losses[piece.name] += 1
        if self.losses[piece.name] > self.retries:
            return False
        self._add(self._front, piece)
        self._front -= 1
        return True

    def let_go(self, kit: str | None) -> None:
        """A worker that had a kit is gone, or has taken another one."""
        if kit is not None:
            self._holders[kit] -= 1
            if self._of_kit.get(kit):
                self._announce(kit)

    def _add(self, place: int, piece: Piece) -> None:
        self.ready += 1
        heappush(self._of_kit[piece.kit], (place, piece))
        self._announce(piece.kit)

    def _pop(self, kit: str) -> Piece:
        self.ready -= 1
        _, piece = heappop(self._of_kit[kit])
        if self._of_kit[kit]:
            self._announce(kit)
        else:
            del self._of_kit[kit]
        return piece

    def _announce(self, kit: str) -> None:
        """The first piece of a kit may be another one than before."""
        entry = self._of_kit[kit][0][0], kit
        heappush(self._kits, entry)
        if not self._holders[kit]:
            heappush(self._unheld, entry)

    def _fullest(self) -> str | None:
        """The kit with most pieces for each worker that has it, one more counted; that of a loss comes first."""
        first = self._first(self._kits)
        if first is None or self._of_kit[first][0][0] < 0:
            return first

        def by_worker(kit: str) -> tuple[float, int]:
            ready = self._of_kit[kit]
            return len(ready) / (self._holders[kit] + 1), -ready[0][0]

        return max(self._of_kit, key=by_worker)

    def _first(self, kits: list[tuple[int, str]], only_unheld: bool = False) -> str | None:
        """The kit whose first piece comes first; entries that are out of date are dropped on the way."""
        while kits:
            place, kit = kits[0]
            ready = self._of_kit.get(kit)
            if ready and ready[0][0] == place and not (only_unheld and self._holders[kit]):
                return kit
            heappop(kits)
        return None
