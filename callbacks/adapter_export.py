"""The best adapter as a PEFT folder, ready for the next stage and for any PEFT tool."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from torch import Tensor

from emodistill.errors import UserError
from emodistill.reporting.model_card import SelectedCheckpoint, write_model_card

logger = logging.getLogger(__name__)


class AdapterExport(L.Callback):
    """When training ends, writes the adapter of `best.ckpt` (or of the last step, where there is none) to `folder`,
    with a model card. With `average_last` it writes the mean of the last weights in place of the best ones; a run that
    is too short for so many warns, and exports the mean of those that there are, or the best ones.

    An interrupted run exports nothing: the next stage would take a half-trained adapter for a finished one.

    Args:
        average_last: how many weights are averaged; 0 exports the best ones.
        every_n_steps: optimizer steps between two of them. They are part of each checkpoint, so that a run that goes on
            averages what an unbroken one would.

    Raises:
        UserError: if one of the two means nothing.
    """

    def __init__(self, folder: str, best: str, average_last: int = 0, every_n_steps: int = 1) -> None:
        if average_last < 0 or average_last == 1 or every_n_steps < 1:
            raise UserError(
                f"averaging: average_last={average_last} must be 0 (off) or at least 2, and "
                f"every_n_steps={every_n_steps} at least 1"
            )
        self.folder, self.best = Path(folder), Path(best)
        self.average_last, self.every_n_steps = average_last, every_n_steps
        self._latest: dict[int, dict[str, Tensor]] = {}  # by optimizer step, oldest first

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        step = trainer.global_step
        if not self.average_last or step == 0 or step % self.every_n_steps or step in self._latest:
            return
        state = trainer.strategy.lightning_module_state_dict()  # of all processes together
        weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        self._latest = dict([*self._latest.items(), (step, weights)][-self.average_last :])

    def state_dict(self) -> dict[str, Any]:
        return {"latest": self._latest} if self.average_last else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._latest = dict(state.get("latest", {}))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.interrupted or is_out_of_time(trainer):
            return
        weights = trainer.strategy.lightning_module_state_dict()  # of all processes together
        if not trainer.is_global_zero:
            return
        if len(self._latest) < self.average_last:
            logger.warning(
                "averaging: the short run gave %d of the %d weights that are averaged; what is exported is %s",
                len(self._latest),
                self.average_last,
                "their mean" if self._latest else "not averaged",
            )
        selected = SelectedCheckpoint(trainer.global_step)
        if self._latest:
            latest = self._latest.values()
            weights = {name: torch.stack([each[name] for each in latest]).mean(0) for name in weights}
            selected = SelectedCheckpoint(trainer.global_step, averaged=tuple(self._latest))
        elif self.best.is_file():
            saved = torch.load(self.best, map_location="cpu", weights_only=True)
            weights, selected = saved["state_dict"], _selected(saved)
        learned = {name.removeprefix("policy."): tensor for name, tensor in weights.items()}
        pl_module.policy.save_adapter(self.folder, learned)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        write_model_card(self.folder, pl_module.policy.identity, trainer.global_step, metrics, selected)


def is_out_of_time(trainer: L.Trainer) -> bool:
    """Whether `trainer.max_time` ended training before its last step; Lightning ends then as if all were done."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return False
    left = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def _selected(saved: dict[str, Any]) -> SelectedCheckpoint:
    """The step of a checkpoint, and what made it the best one."""
    monitored = (state for state in saved["callbacks"].values() if state.get("monitor") and "best_model_score" in state)
    state = next(monitored)  # a user may have added others after ours
    return SelectedCheckpoint(saved["global_step"], state["monitor"], float(state["best_model_score"]))
