"""The optimizer of the two language-model learners: AdamW on the adapter, with a warm-up and perhaps a cosine.

The schedules of transformers are not used: their warm-up begins at a rate of 0, which wastes the first of few steps.
"""

import math
from typing import Any

import lightning as L
import torch

from emodistill.errors import UserError


def adamw(learner: L.LightningModule, settings: dict[str, Any]) -> dict[str, Any]:
    """What `configure_optimizers` returns.

    Args:
        settings: `learning_rate`; `weight_decay`; `warmup_steps`, over which the rate rises to it; `schedule`,
            `constant` or `cosine` (down to a tenth of the rate at the last step).

    Raises:
        UserError: if the schedule is unknown.
    """
    if settings["schedule"] not in {"constant", "cosine"}:
        raise UserError(f"optimizer.schedule={settings['schedule']}: choose constant or cosine")
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
