"""Supervised fine-tuning: the expression policy learns to speak as the chosen turns of the corpus do."""

from typing import Any

import lightning as L
from torch import Tensor
from torchmetrics import MeanMetric

from emodistill.learners.optimizer import adamw
from emodistill.policy.expression_policy import ExpressionPolicy, refuse_foreign
from emodistill.policy.token_batches import Chats


class SFTLearner(L.LightningModule):
    """Cross-entropy on the tokens of the chosen replies, a mean over tokens.

    Every chosen turn of an episode is learnt from in one forward pass. Whatever else is in the chat, the
    counterparty's words and replies that were not chosen, is read and never learnt.
    """

    def __init__(self, policy: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """
        Args:
            policy: arguments of `ExpressionPolicy`.
            optimizer: see `learners.adamw`.
        """
        super().__init__()
        self.save_hyperparameters()
        self.policy: ExpressionPolicy | None = None
        self.val_loss = MeanMetric()

    def configure_model(self) -> None:
        if self.policy is None:  # Lightning calls this hook once a stage
            self.policy = ExpressionPolicy(**self.hparams["policy"])

    def loss(self, batch: Chats) -> tuple[Tensor, int]:
        """Mean negative log-likelihood of a response token, natural log, and the number of such tokens."""
        assert self.policy is not None
        logprobs = self.policy(batch).logprobs
        return -logprobs.mean(), len(logprobs)

    def training_step(self, batch: Chats, batch_idx: int) -> Tensor:
        loss, tokens = self.loss(batch)
        figures: dict[str, Tensor | float] = {
            "loss": loss.detach(),
            "perplexity": loss.detach().exp(),
            "response_tokens": float(tokens),
        }
        figures["learning_rate"] = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        for name, value in figures.items():
            self.log(f"train/{name}", value, batch_size=len(batch.input_ids))
        return loss

    def validation_step(self, batch: Chats, batch_idx: int) -> None:
        loss, tokens = self.loss(batch)
        self.val_loss.update(loss, tokens)

    def on_validation_epoch_end(self) -> None:
        loss = self.val_loss.compute()
        self.val_loss.reset()
        self.log_dict({"val/loss": loss, "val/perplexity": loss.exp()})  # of the mean: a mean of exps would favour none

    def configure_optimizers(self) -> Any:
        return adamw(self, self.hparams["optimizer"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.policy is not None
        checkpoint["stage"] = "sft"  # a checkpoint of another stage is refused by name
        checkpoint["expression_policy"] = self.policy.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.policy is not None
        refuse_foreign(checkpoint.get("expression_policy", {}), self.policy.identity, "the checkpoint")
