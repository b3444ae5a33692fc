"""The best adapter as a PEFT folder, ready for the next stage and for any PEFT tool."""

from pathlib import Path
from typing import Any

import lightning as L
import torch

from emodistill.reporting.model_card import SelectedCheckpoint, write_model_card


class AdapterExport(L.Callback):
    """When training ends, writes the adapter of `best.ckpt` (or of the last step, where there is none) to `folder`,
    with a model card.

    An interrupted run exports nothing: the next stage would take a half-trained adapter for a finished one.
    """

    def __init__(self, folder: str, best: str) -> None:
        self.folder, self.best = Path(folder), Path(best)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.interrupted or not trainer.is_global_zero:
            return
        trained = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
        selected = SelectedCheckpoint(trainer.global_step)
        if self.best.is_file():
            saved = torch.load(self.best, map_location="cpu", weights_only=True)
            pl_module.load_state_dict(saved["state_dict"])
            selected = _selected(saved)
        pl_module.policy.save_adapter(self.folder)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        write_model_card(self.folder, pl_module.policy.identity, trainer.global_step, metrics, selected)
        pl_module.load_state_dict(trained)  # the module is handed back as training left it


def _selected(saved: dict[str, Any]) -> SelectedCheckpoint:
    """The step of a checkpoint, and what made it the best one."""
    monitored = (state for state in saved["callbacks"].values() if state.get("monitor") and "best_model_score" in state)
    state = next(monitored)  # a user may have added others after ours
    return SelectedCheckpoint(saved["global_step"], state["monitor"], float(state["best_model_score"]))
