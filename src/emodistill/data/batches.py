"""Training loaders whose order of batches is a function of (seed, epoch), so that a cursor is all that a resume needs.

Every loader of this project is a `ResumableLoader`: the cursor is the epoch and the number of batches served in it.
`ResumableBatches` is the loader of Python objects; transitions have one of their own (`data/transitions.py`).

Order and cursor know nothing of devices. Where several train together, they take the batches of an epoch in turn, or
each a part of every batch, so a step has the same rows on any number of them (`learners/devices.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Self, TypeVar

import numpy as np

from emodistill.errors import UserError

Item = TypeVar("Item")


class ResumableLoader(ABC):
    """What all loaders share: the cursor, and which share of every epoch is this rank's own.

    Lightning calls `sampler.set_epoch` before each epoch. The DataModule carries `state_dict`, because Lightning 2.6
    drops the state of a loader where `trainer.estimated_stepping_batches` is read.

    Attributes:
        rank: of this process; the DataModule sets it, as `world_size`.
        served: batches of the epoch that this process was given.
    """

    split_batches = False  # whether each rank takes a part of every batch, and not every world-size-th batch

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

    @property
    @abstractmethod
    def batches(self) -> int:
        """Batches of an epoch, of all ranks together."""

    @property
    def at_once(self) -> int:
        """Batches that are learnt from at the same time."""
        return 1 if self.split_batches else self.world_size

    def __len__(self) -> int:
        """Batches of this rank in an epoch: the same for every rank, or else one would wait for another."""
        return -(-self.batches // self.at_once)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches all ranks together were given."""
        return {"epoch": self.epoch, "served": min(self.served * self.at_once, self.batches)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the epoch of `state` where it stopped; other epochs start at their first batch."""
        self._resume_from = state

    def _numbers(self) -> Iterator[int]:
        """Numbers of this rank's batches that are left of the epoch; each counts as served when it is given out."""
        state, self._resume_from = self._resume_from, None
        here = state is not None and state["epoch"] == self.epoch
        self.served = -(-state["served"] // self.at_once) if state is not None and here else 0
        for number in range(self.served, len(self)):
            self.served += 1
            yield number


class ResumableBatches(ResumableLoader, Generic[Item]):
    """Shuffled batches of `items`, collated; the last one of an epoch may be smaller.

    Under distributed training every rank walks the same order and takes every world-size-th batch of it. Where these
    run out first for some, they are given the last batch once more, with its attribute `counts` set to False.
    """

    def __init__(self, items: Sequence[Item], batch_size: int, seed: int, collate: Callable[[list[Item]], Any]) -> None:
        if not items:
            raise UserError("nothing is left to learn from: the selection of turns is empty; choose a wider selection")
        super().__init__(batch_size, seed)
        self.items, self.collate = items, collate

    @property
    def batches(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.items)).tolist()
        for number in self._numbers():
            yield self._batch(order, number)

    def _batch(self, order: list[int], number: int) -> Any:
        """The batch of this number of this rank."""
        place = number * self.world_size + self.rank
        batch = self.collate(self._items(order, min(place, self.batches - 1)))
        if place >= self.batches:
            batch.counts = False
        return batch

    def _items(self, order: list[int], place: int) -> list[Item]:
        """The items of a batch, by its place among all of the epoch; none beyond the last."""
        return [self.items[i] for i in order[place * self.batch_size : (place + 1) * self.batch_size]]
