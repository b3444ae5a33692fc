"""The checkpoint that a run continues from."""

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.adapter_export import is_out_of_time


class LastCheckpoint(Checkpoint):
    """Writes `path` every `every_n_steps` optimizer steps, and after each validation.

    Where a validation follows a step, the checkpoint waits for its end. Written before it, it would not know the best
    score so far: a run killed in between would go on without that validation, and a later, worse checkpoint could take
    the place of `best.ckpt`. Where a validation falls between the accumulated batches of a step, the checkpoint waits
    for the end of the step: the gradients of its first batches are in no checkpoint.

    Where `trainer.max_time` is over, it writes `path` at the end of the step, and training stops there. Lightning would
    validate first, at a step that an unbroken run does not validate, and could keep its weights as the best ones.
    """

    def __init__(self, path: str, every_n_steps: int) -> None:
        self.path, self.every_n_steps = path, every_n_steps
        self._saved_at = 0
        self._postponed = self._stops = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at, self._postponed, self._stops = trainer.global_step, False, False

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if trainer.should_stop and trainer.strategy.broadcast(is_out_of_time(trainer)):
            self._stops, trainer.should_stop = True, False  # only once all is saved
        stepped = trainer.global_step != self._saved_at and not trainer.fit_loop.epoch_loop._should_accumulate()
        due = stepped and (self._postponed or self._stops or trainer.global_step % self.every_n_steps == 0)
        loop = trainer.fit_loop
        if due and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            self._save(trainer)
            if self._stops:
                trainer.limit_val_batches, trainer.should_stop = 0, True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if trainer.fit_loop.epoch_loop._should_accumulate():
            self._postponed = True
        else:
            self._save(trainer)
            trainer.should_stop = trainer.should_stop or self._stops

    def _save(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()  # or else a kill leaves a hole in the curves: they wait up to two minutes
        trainer.save_checkpoint(self.path)
        self._saved_at, self._postponed = trainer.global_step, False
