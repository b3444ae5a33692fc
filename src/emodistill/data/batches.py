"""Batches cut straight out of tensors, in an order that is a function of (seed, epoch).

Transitions fit in memory, so a loader that fetches rows one by one and stacks them again does in Python what one
`index_select` does: it halves the speed of IQL. And because the order follows from the seed and the epoch, a cursor of
two numbers is all that a resumed run needs to go on at the very batch where it stopped.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from emodistill.data.transitions import Transitions
from emodistill.errors import UserError


class TransitionBatches:
    """An epoch of `batches_per_epoch` shuffled batches; the table is gone through as often as that takes.

    An epoch is a stretch between validations and not a pass: each pass within it is a permutation of the table, so
    every row is used equally often to within one, and every batch is full.

    Under distributed training a batch is `batch_size` rows on every rank: the ranks share one order, and rank r takes
    the rows r, r + world size, r + 2 world size ... of it, so that all of them together step through every row.

    Lightning calls `sampler.set_epoch` before each epoch. The DataModule carries `state_dict`, because Lightning 2.6
    drops the state of a loader where `trainer.estimated_stepping_batches` is read.
    """

    def __init__(self, table: Transitions, batch_size: int, batches_per_epoch: int, seed: int) -> None:
        if batch_size < 1 or batches_per_epoch < 1:
            raise UserError(
                f"batch_size={batch_size} and batches_per_epoch={batches_per_epoch}: both must be at least 1"
            )
        check_finite(table)
        self.table, self.batch_size, self.batches_per_epoch, self.seed = table, batch_size, batches_per_epoch, seed
        self.rank, self.world_size = 0, 1
        self.epoch = self.served = 0
        self._resume_from: dict[str, int] | None = None

    @property
    def sampler(self) -> "TransitionBatches":
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[Transitions]:
        state, self._resume_from = self._resume_from, None
        self.served = state["served"] if state is not None and state["epoch"] == self.epoch else 0
        order = self.order(self.epoch)[self.rank :: self.world_size]
        for start in range(self.served * self.batch_size, len(order), self.batch_size):
            self.served += 1
            index = order[start : start + self.batch_size]
            yield Transitions(*(column.index_select(0, index) for column in self.table))

    def order(self, epoch: int) -> Tensor:
        """Rows of the table in the order of one epoch, (batches_per_epoch * batch_size * world_size,)."""
        count, length = self.batches_per_epoch * self.batch_size * self.world_size, len(self.table.action)
        generator = np.random.default_rng((self.seed, epoch))
        passes = [generator.permutation(length) for _ in range(-(-count // length))]
        return torch.from_numpy(np.concatenate(passes)[:count])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "served": self.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_from = state


def check_finite(table: Transitions) -> None:
    """Refuse a table that is empty or has a number that is none.

    Raises:
        UserError: naming the column and the first row at fault.
    """
    if not len(table.action):
        raise UserError("there is no transition to learn from; the corpus has no valid episode that shows an emotion")
    for name, column in zip(table._fields, table, strict=True):
        bad = (~torch.isfinite(column)).reshape(len(column), -1).any(1).nonzero()
        if len(bad):
            raise UserError(
                f"transition {int(bad[0])} has a {name} that is not finite; check the corpus it was made from"
            )
