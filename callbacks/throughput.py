"""How fast a stage runs, how much memory it holds, and what all of it took."""

import resource
import sys
import time
from typing import Any

import lightning as L
import torch


class Throughput(L.Callback):
    """Logs steps, supervised turns and response tokens a second, and peak memory, every `log_every_n_steps` steps.

    Turns and tokens come from batches that know them (`Chats`), or from a learner that says what it made of a batch; a
    batch of transitions counts its rows as turns. They are those of all devices together.

    Attributes:
        seconds: that the stage took up to now, validation included, in this process and those that it continues; what
            a killed process did after its last checkpoint is not known.
        tokens: response tokens that were learnt from up to now.
    """

    def __init__(self) -> None:
        self.seconds, self.tokens = 0.0, 0
        self._began = self._since = 0.0
        self._steps = self._turns = self._tokens = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.monotonic() - self.seconds
        self._restart(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        turns, tokens = getattr(pl_module, "amounts", None) or amounts(batch)
        if trainer.world_size > 1:
            turns, tokens = trainer.strategy.reduce(
                torch.tensor([turns, tokens], device=trainer.strategy.root_device), reduce_op="sum"
            ).tolist()
        self._turns += turns
        self._tokens += tokens
        self.tokens += tokens
        self.seconds = time.monotonic() - self._began
        every = trainer.log_every_n_steps  # 0 logs nothing
        if not every or trainer.global_step % every or trainer.global_step == self._steps:
            return
        seconds = max(time.monotonic() - self._since, 1e-9)
        rates = {"steps": trainer.global_step - self._steps, "turns": self._turns, "response_tokens": self._tokens}
        metrics = {f"throughput/{name}_per_second": count / seconds for name, count in rates.items() if count}
        metrics["throughput/peak_memory_gib"] = peak_memory_gib(pl_module.device)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        self._restart(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:  # before training has begun
            return
        self.seconds = time.monotonic() - self._began
        self._restart(trainer)  # time spent validating is not training speed

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.tokens = state_dict["seconds"], state_dict["tokens"]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the sums where the trainer keeps its last metrics, from which `finished.json` is written."""
        trainer.callback_metrics["throughput/training_seconds"] = torch.tensor(self.seconds)
        trainer.callback_metrics["throughput/training_tokens"] = torch.tensor(float(self.tokens))

    def _restart(self, trainer: L.Trainer) -> None:
        self._since, self._steps = time.monotonic(), trainer.global_step
        self._turns = self._tokens = 0


def amounts(batch: object) -> tuple[int, int]:
    """Supervised turns and response tokens of a batch; tokens are 0 where there is no text."""
    if not getattr(batch, "counts", True):
        return 0, 0
    utterance = getattr(getattr(batch, "chats", batch), "utterance", None)
    if utterance is None:
        action = getattr(batch, "action", None)
        return (0 if action is None else len(action)), 0
    return int(utterance.max()) + 1, int((utterance >= 0).sum())


def peak_memory_gib(device: torch.device) -> float:
    """Peak resident memory of this process, or of the GPU where training is on one, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
