"""The optimizer of the two language-model learners: AdamW on the adapter, with a warm-up and perhaps a cosine.

The schedules of transformers are not used: their warm-up begins at a rate of 0, which wastes the first of few steps.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from emodistill.checks import FROM_0, Allowed, check_settings, is_whole
from emodistill.errors import UserError

SCHEDULES = ("constant", "cosine")
ALLOWED: Allowed = {
    "learning_rate": FROM_0,
    "weight_decay": FROM_0,
    "warmup_steps": (partial(is_whole, least=0), "a whole number of steps"),
    "schedule": (SCHEDULES.__contains__, "constant or cosine"),
}


def check_optimizer(settings: Mapping[str, Any]) -> None:
    """Refuse settings of the optimizer that have no meaning.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    check_settings(settings, ALLOWED, "learner.optimizer.")


def finite(learner: L.LightningModule, loss: Tensor) -> Tensor:
    """The loss as it is.

    Raises:
        UserError: if it is not a finite number, for then the weights would not be either.
    """
    if not bool(loss.isfinite()):
        raise UserError(
            f"the loss is {loss.item()} at step {learner.global_step}; lower learner.optimizer.learning_rate, and use "
            "another run=... or delete the folder of the stage"
        )
    return loss


def adamw(learner: L.LightningModule, settings: dict[str, Any]) -> dict[str, Any]:
    """What `configure_optimizers` returns.

    Args:
        settings: `learning_rate`; `weight_decay`; `warmup_steps`, over which the rate rises to it; `schedule`,
            `constant` or `cosine` (down to a tenth of the rate at the last step).
    """
    trainable = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
    warmup, total = int(settings["warmup_steps"]), float(learner.trainer.estimated_stepping_batches)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if settings["schedule"] == "constant" or not math.isfinite(total):
            return 1.0
        done = min((step - warmup) / max(total - warmup, 1), 1.0)
        return 0.1 + 0.45 * (1.0 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
