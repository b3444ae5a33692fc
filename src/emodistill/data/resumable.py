"""A loader of Python objects whose order is a function of (seed, epoch), so a cursor is all that a resume needs.

Under distributed training every rank walks the same order and takes every world-size-th batch of it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from emodistill.errors import UserError

Item = TypeVar("Item")


class ResumableBatches(Generic[Item]):
    """Shuffled batches of `items`, collated; the last one of an epoch may be smaller.

    Lightning calls `sampler.set_epoch` before each epoch. The DataModule carries `state_dict`, because Lightning 2.6
    drops the state of a loader where `trainer.estimated_stepping_batches` is read.
    """

    def __init__(self, items: Sequence[Item], batch_size: int, seed: int, collate: Callable[[list[Item]], Any]) -> None:
        if not items:
            raise UserError("nothing is left to learn from: the selection of turns is empty; choose a wider selection")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: it must be at least 1")
        self.items, self.batch_size, self.seed, self.collate = items, batch_size, seed, collate
        self.rank, self.world_size = 0, 1
        self.epoch = self.served = 0
        self._resume_from: dict[str, int] | None = None

    @property
    def sampler(self) -> "ResumableBatches[Item]":
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of this rank in an epoch: the same for every rank, or else one would wait for another."""
        return max(-(-len(self.items) // self.batch_size) // self.world_size, 1)

    def __iter__(self) -> Iterator[Any]:
        state, self._resume_from = self._resume_from, None
        self.served = state["served"] if state is not None and state["epoch"] == self.epoch else 0
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.items)).tolist()
        for number in range(self.served, len(self)):
            self.served += 1
            yield self._batch(order, number)

    def _batch(self, order: list[int], number: int) -> Any:
        start = (number * self.world_size + self.rank) * self.batch_size % len(order)
        return self.collate([self.items[i] for i in order[start : start + self.batch_size]])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "served": self.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_from = state
