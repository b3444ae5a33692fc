"""Which emotions a selector would show, against those of the corpus."""

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor


class EmotionUsage(L.Callback):
    """After each validation: a histogram over emotion ids and a table by name in TensorBoard.

    The learner leaves the shares in `emotion_shares`: of the corpus, of the policy, and of its greedy
    choices.
    """

    def __init__(self, samples: int = 10_000) -> None:
        self.samples = samples  # a histogram of shares needs counts; shares are exact to one in this many

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        shares: dict[str, Tensor] = {n: share.cpu() for n, share in getattr(pl_module, "emotion_shares", {}).items()}
        stats = pl_module.hparams.get("dataset_stats") or {}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and shares:
                for name, share in shares.items():
                    counts = (share * self.samples).round().long()
                    ids = torch.repeat_interleave(torch.arange(len(share)), counts)
                    logger.experiment.add_histogram(f"emotions/{name}", ids, trainer.global_step, bins=len(share))
                text = table(stats.get("labels", []), shares)
                logger.experiment.add_text("emotions/table", text, trainer.global_step)


def table(labels: list[str], shares: dict[str, Tensor]) -> str:
    """A Markdown table of shares by emotion, the greedy policy's favourites first."""
    columns = list(shares)
    rows = sorted(range(len(labels)), key=lambda i: [-float(shares[column][i]) for column in reversed(columns)])
    head = [f"| emotion | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    body = [f"| {labels[i]} | " + " | ".join(f"{float(shares[c][i]):.3f}" for c in columns) + " |" for i in rows]
    return "\n".join(head + body)
