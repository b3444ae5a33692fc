"""Supervised fine-tuning: the expression policy learns to speak as the chosen turns of the corpus do."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from emodistill.data.chat_datasets import SFTBatch
from emodistill.learners.devices import build_policy
from emodistill.learners.optimizer import adamw, check_optimizer, finite
from emodistill.policy.adapter_files import refuse_foreign
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.token_batches import Chats


class SFTLearner(L.LightningModule):
    """Cross-entropy on the tokens of the chosen replies: the mean over all supervised tokens of an optimizer step.

    The mean is over all batches of the step, on all devices; `train/loss` shows it, and `train/response_tokens` is the
    number of those tokens. Replies may have weights, whose mean over the selected turns is 1; `train/loss` is then the
    mean of weighted losses, `val/loss` never is.

    Every chosen turn of an episode is learnt from in one forward pass. Whatever else is in the chat, the
    counterparty's words and replies that were not chosen, is read and never learnt.
    """

    policy: ExpressionPolicy  # built by `configure_model`

    def __init__(self, policy: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """
        Args:
            policy: arguments of `ExpressionPolicy`.
            optimizer: see `learners.optimizer.adamw`.

        Raises:
            UserError: if a setting of the optimizer has no meaning.
        """
        super().__init__()
        check_optimizer(optimizer)
        self.save_hyperparameters()
        self.val_loss = MeanMetric()
        self._summed = torch.zeros(2, dtype=torch.float64)  # of the step so far: loss times tokens, and tokens

    def configure_model(self) -> None:
        if not hasattr(self, "policy"):  # Lightning calls this hook once a stage
            self.policy = build_policy(self, **self.hparams["policy"])

    def loss(self, chats: Chats, weights: Tensor | None = None) -> tuple[Tensor, int]:
        """Mean negative log-likelihood of a response token, natural log, and the number of such tokens.

        Args:
            weights: (U,), how much each utterance counts; None counts all alike.
        """
        logprobs, owner = self.policy(chats)
        weighted = logprobs if weights is None else logprobs * weights[owner]
        return -weighted.mean(), len(logprobs)

    def training_step(self, batch: SFTBatch, batch_idx: int) -> Tensor:
        loss, tokens = self.loss(batch.chats, batch.weights)
        counted = tokens if batch.counts else 0
        first, last = self._step_of(batch_idx)
        metrics = self._of_the_step(loss.detach(), counted, first=batch_idx == first, last=batch_idx + 1 == last)
        metrics["learning_rate"] = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, batch_size=len(batch))
        # Lightning averages the losses of accumulated batches, and devices average their gradients; weighted by its
        # tokens over their mean, each batch counts by its tokens: the step's loss is the mean over all of them
        places = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return finite(self, loss) * (counted / (batch.tokens_of(first, last) / places))

    def _step_of(self, batch_idx: int) -> tuple[int, int]:
        """The first batch of the optimizer step that this one belongs to, and the first one after it."""
        accumulated = self.trainer.accumulate_grad_batches
        first = batch_idx - batch_idx % accumulated
        return first, min(first + accumulated, int(self.trainer.num_training_batches))  # an epoch may end with fewer

    def _of_the_step(self, loss: Tensor, tokens: int, first: bool, last: bool) -> dict[str, Tensor | float]:
        """Loss and tokens of the step up to this batch; with its last one, of all devices."""
        own = torch.tensor([0.0, tokens], dtype=torch.float64, device=loss.device)
        own[0] = loss.double() * tokens
        self._summed = own if first else self._summed + own
        summed = self._summed
        if last:
            summed = self.trainer.strategy.reduce(summed.clone(), reduce_op="sum")
        mean = (summed[0] / summed[1]).float()
        return {"loss": mean, "perplexity": mean.exp(), "response_tokens": summed[1].float()}

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
        checkpoint["stage"] = "sft"  # a checkpoint of another stage is refused by name
        checkpoint["expression_policy"] = self.policy.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_foreign(checkpoint.get("expression_policy", {}), self.policy.identity, "the checkpoint")
