"""Gives TensorBoard's HPARAMS tab a metric column."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger


class HParamsTab(L.Callback):
    """Writes the hparams record once, at the first validation, with the monitored metric in it.

    TensorBoard shows only metrics named in that record. Lightning's own record comes before training and names a
    placeholder, `hp_metric = -1`; waiting for the first real value needs no placeholder, and still serves runs that are
    later killed. Afterwards `self.log(metric, ...)` fills the column.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.written = False

    def state_dict(self) -> dict[str, bool]:
        return {"written": self.written}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        self.written = state["written"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.written or trainer.sanity_checking or self.metric not in trainer.callback_metrics:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                value = trainer.callback_metrics[self.metric].item()
                logger.log_hyperparams(dict(pl_module.hparams), {self.metric: value}, step=trainer.global_step)
        self.written = True
