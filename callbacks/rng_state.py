"""Carries the random number generators across a resume."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch


class RngState(L.Callback):
    """Saves the global generators with each checkpoint and restores them when training restarts.

    Lightning checkpoints weights, optimizers, loops and callbacks, but no generator: without this, a resumed run draws
    other dropout masks than the run it continues. Tensors and plain Python only, so the checkpoint still loads with
    `weights_only=True`.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Of every process of a distributed run, for only the first one writes the file; all of them call this."""
        states = [_generators()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            own, states = states[0], [{}] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, own)
        return {"ranks": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restored = state

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._restored is None:
            return
        states, self._restored = self._restored.get("ranks", [self._restored]), None  # one state, in earlier files
        if trainer.global_rank < len(states):  # a process that was not there goes on with its own
            _restore(states[trainer.global_rank])


def _generators() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
    }


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):  # a run may move to fewer
        torch.cuda.set_rng_state(generator, device)
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
