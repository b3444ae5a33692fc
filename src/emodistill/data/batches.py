"""Training loaders whose order of batches is a function of (seed, epoch), so that a cursor is all that a resume needs.

Every loader of this project is a `ResumableLoader`: the cursor is the epoch and the number of batches served in it.
`ResumableBatches` is the loader of Python objects; transitions have one of their own (`data/transitions.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Self, TypeVar

import numpy as np

from emodistill.errors import UserError

Item = TypeVar("Item")


class ResumableLoader:
    """What all loaders share: the cursor, and which share of every epoch is this rank's own.

    Lightning calls `sampler.set_epoch` before each epoch. The DataModule carries `state_dict`, because Lightning 2.6
    drops the state of a loader where `trainer.estimated_stepping_batches` is read.

    Attributes:
        rank: of this process; the DataModule sets it, as `world_size`.
        served: batches of the epoch that were given out.
    """

    def __init__(self, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: it must be at least 1")
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = 0, 1
        self.epoch = self.served = 0
        self._resume_from: dict[str, int] | None = None

    @property
    def sampler(self) -> Self:
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "served": self.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the epoch of `state` where it stopped; other epochs start at their first batch."""
        self._resume_from = state

    def _numbers(self, length: int) -> Iterator[int]:
        """Numbers of the batches that are left of the epoch; each counts as served when it is given out."""
        state, self._resume_from = self._resume_from, None
        self.served = state["served"] if state is not None and state["epoch"] == self.epoch else 0
        for number in range(self.served, length):
            self.served += 1
            yield number


class ResumableBatches(ResumableLoader, Generic[Item]):
    """Shuffled batches of `items`, collated; the last one of an epoch may be smaller.

    Under distributed training every rank walks the same order and takes every world-size-th batch of it.
    """

    def __init__(self, items: Sequence[Item], batch_size: int, seed: int, collate: Callable[[list[Item]], Any]) -> None:
        if not items:
            raise UserError("nothing is left to learn from: the selection of turns is empty; choose a wider selection")
        super().__init__(batch_size, seed)
        self.items, self.collate = items, collate

    def __len__(self) -> int:
        """Batches of this rank in an epoch: the same for every rank, or else one would wait for another."""
        return max(-(-len(self.items) // self.batch_size) // self.world_size, 1)

    def __iter__(self) -> Iterator[Any]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.items)).tolist()
        for number in self._numbers(len(self)):
            yield self._batch(order, number)

    def _batch(self, order: list[int], number: int) -> Any:
        return self.collate([self.items[i] for i in self._rows(order, number, self.rank)])

    def _rows(self, order: list[int], number: int, rank: int) -> list[int]:
        """Which items a rank's batch of this number has."""
        start = (number * self.world_size + rank) * self.batch_size % len(order)
        return order[start : start + self.batch_size]
