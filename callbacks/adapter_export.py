"""The best adapter as a PEFT folder, ready for the next stage and for any PEFT tool."""

from pathlib import Path

import lightning as L
import torch

from emodistill.reporting.model_card import write_model_card


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
        if self.best.is_file():
            pl_module.load_state_dict(torch.load(self.best, map_location="cpu", weights_only=True)["state_dict"])
        pl_module.policy.save_adapter(self.folder)
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        write_model_card(self.folder, pl_module.policy.identity, trainer.global_step, figures)
        pl_module.load_state_dict(trained)  # the module is handed back as training left it
