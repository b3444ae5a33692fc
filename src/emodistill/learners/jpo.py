"""Judge Policy Optimization: the expression policy moves towards utterances that a judge prefers (METHOD 6).

The judge is asked here, in the training step, about the corpus's own utterances or about utterances sampled a moment
ago. An utterance is compared with its group: all chosen turns of its scenario, or the other samples of its context.

On corpus turns the ratio of policy to reference is a trust region and no importance weight: they were written by the
behaviour policy, not drawn from the reference. It keeps one update from running far on one judgement, nothing more.

LoRA dropout is off in this stage. The first ratio is then exactly 1 and the first KL exactly 0, and a ratio measures
what training did, not which mask was drawn.
"""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from emodistill.data.judged_chats import ContextBatch, JudgedBatch
from emodistill.errors import UserError
from emodistill.learners.adamw import adamw
from emodistill.learners.live_judging import Judging, Scorer
from emodistill.learners.replies import Drawn, Sampler
from emodistill.learners.rollouts import Rollout, Rollouts, Sample, known
from emodistill.losses import clipped_surrogate, kl_k3
from emodistill.policy.adapters import refuse_foreign
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.tokens import TokenLogprobs, mean_by_utterance

VALIDATED = ("surrogate", "kl", "reward", "reward_missing", "response_length", "unnamed")


class JPOLearner(L.LightningModule):
    """A clipped surrogate on judged utterances, held near the frozen SFT policy by a KL penalty.

    A `JudgedBatch` trains on what the corpus says, a `ContextBatch` on `samples` replies to each context. A missing
    score takes its utterance out of group and loss: it never becomes a middling score.

    Attributes:
        last_samples: the utterances of the latest step with their scores, for people to read.
        amounts: utterances and response tokens of the latest step.
    """

    def __init__(
        self,
        policy: dict[str, Any],
        optimizer: dict[str, Any],
        clip_range: float,
        kl_coef: float,
        negative_weight: float,
        samples: int,
        judging: dict[str, Any],
        seed: int,
        judge: Scorer | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """
        Args:
            policy: arguments of `ExpressionPolicy`; its `init_adapter` is where training starts, and the reference.
            optimizer: see `learners.adamw`.
            clip_range: a ratio gains nothing beyond 1 ± this.
            kl_coef: weight of the KL penalty.
            negative_weight: factor of negative advantages (1: as they are; 0: only good utterances teach).
            samples: replies to each context of a `ContextBatch`.
            judging: arguments of `Judging`.
            seed: fixes all sampling, together with the step.
            judge: scores utterances; None takes the values that corpus turns came with.
            sampler: draws replies; only a `ContextBatch` needs one.

        Raises:
            UserError: if `samples` is below 2, which makes no group, or below the smallest group of `judging`.
        """
        super().__init__()
        if samples < 2:
            raise UserError(f"samples={samples}: an utterance is compared with others, so at least 2 are needed")
        if judging["min_group"] > samples:
            raise UserError(f"samples={samples}: judging.min_group={judging['min_group']} would skip every group")
        self.save_hyperparameters(ignore=["judge", "sampler"])  # objects would not load with weights_only=True
        self.policy: ExpressionPolicy | None = None
        self.rollouts = Rollouts(judge, sampler, negative_weight, Judging(**judging))
        self.last_samples: list[Sample] = []
        self.amounts = (0, 0)
        self.val_means = torch.nn.ModuleDict({name: MeanMetric(nan_strategy="ignore") for name in VALIDATED})

    def configure_model(self) -> None:
        if self.policy is None:  # Lightning calls this hook once a stage
            self.policy = ExpressionPolicy(**self.hparams["policy"], reference=True)

    def on_train_start(self) -> None:
        self.rollouts.replies.forget()

    def training_step(self, batch: JudgedBatch | ContextBatch, batch_idx: int) -> Tensor:
        assert self.policy is not None
        if isinstance(batch, JudgedBatch):
            rollout = self.rollouts.logged(self.policy, batch)
            figures = self.objective(rollout, self.policy(rollout.chats))
        else:
            drawn = self._drawn(batch, batch_idx)
            ref_logprobs = self.rollouts.reference(self.policy, drawn)
            forward = self.policy(drawn.chats)  # before the scores are waited for
            rollout = self.rollouts.judged(drawn, ref_logprobs, self.rollouts.min_group)
            figures = self.objective(rollout, forward) | {"judge_wait_s": torch.tensor(drawn.asked.waited_s)}
        self.last_samples = rollout.samples
        self.amounts = (len(rollout.scores), len(rollout.ref_logprobs))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        shown = {f"train/{name}": value.detach() for name, value in figures.items()}
        self.log_dict(shown | {"train/learning_rate": rate}, batch_size=len(batch))
        return figures["loss"]

    def _drawn(self, batch: ContextBatch, batch_idx: int) -> Drawn:
        assert self.policy is not None
        of_step = self.trainer.accumulate_grad_batches
        left = of_step - 1 - batch_idx % of_step  # batches still to come before the weights move
        count, seed = self.hparams["samples"], self.hparams["seed"]
        return self.rollouts.replies.upcoming(self.policy, batch, count, seed, self.global_step, left)

    def objective(self, rollout: Rollout, forward: TokenLogprobs | None = None) -> dict[str, Tensor]:
        """`loss` = `surrogate` + kl_coef x `kl`, and what one looks at beside them; all scalars.

        The KL is a mean over tokens, the surrogate a mean over utterances with the ratio's logarithm a mean over the
        utterance's tokens: long replies weigh as much as short ones.

        Args:
            forward: what the policy makes of the rollout's chats, where that is known already.
        """
        assert self.policy is not None
        logprobs, owner = forward or self.policy(rollout.chats)
        log_ratio = mean_by_utterance(logprobs - rollout.ref_logprobs, owner, len(rollout.scores))
        judged = torch.tensor([one is not None for one in rollout.advantages], device=owner.device)
        if not judged.any():
            return {"loss": 0.0 * logprobs.sum()} | self._completeness(rollout)  # a step that changes nothing
        advantage = torch.tensor([one for one in rollout.advantages if one is not None], device=owner.device)
        surrogate = clipped_surrogate(log_ratio[judged], advantage, self.hparams["clip_range"])
        kl = kl_k3(logprobs, rollout.ref_logprobs)[judged[owner]].mean()
        loss = surrogate + self.hparams["kl_coef"] * kl
        figures = {"loss": loss, "surrogate": surrogate, "kl": kl} | self._completeness(rollout)
        return figures | self._watched(rollout, log_ratio.detach()[judged].exp(), advantage, len(logprobs))

    @staticmethod
    def _completeness(rollout: Rollout) -> dict[str, Tensor]:
        missing = 1.0 - known(rollout.scores) / len(rollout.scores)
        counted = {"reward_missing": missing, "skipped_groups": float(rollout.skipped), "unnamed": rollout.unnamed}
        return {name: torch.tensor(value) for name, value in counted.items() if value is not None}

    def _watched(self, rollout: Rollout, ratio: Tensor, advantage: Tensor, tokens: int) -> dict[str, Tensor]:
        """The state of things: nothing here is learnt from. `ratio` and `advantage` are those of judged utterances."""
        scores = torch.tensor([score for score in rollout.scores if score is not None])
        figures = {
            "reward": scores.mean(),
            "degenerate_groups": torch.tensor(float(rollout.degenerate)),
            "clip_fraction": ((ratio - 1.0).abs() > self.hparams["clip_range"]).float().mean(),
            "response_length": torch.tensor(tokens / len(rollout.scores)),
        }
        for name, values in (("ratio", ratio), ("advantage", advantage)):
            figures |= {f"{name}_mean": values.mean(), f"{name}_min": values.min(), f"{name}_max": values.max()}
        return figures | {"advantage_std": advantage.std(correction=0)}

    def validation_step(self, batch: JudgedBatch | ContextBatch, batch_idx: int) -> None:
        """Corpus turns show `kl` and `surrogate`; contexts get one reply each, whose `reward` is worth watching."""
        assert self.policy is not None
        if isinstance(batch, JudgedBatch):
            figures = self.objective(self.rollouts.logged(self.policy, batch))
            figures.pop("reward", None)  # of the corpus's own words: it cannot change
        else:
            seed = self.rollouts.replies.validation_seed(self.hparams["seed"], batch_idx)
            figures = self.objective(self.rollouts.sampled(self.policy, batch, 1, seed, self.global_step))
            figures.pop("surrogate", None)  # one reply is no group
            figures.setdefault("reward", torch.tensor(torch.nan))  # a silent judge: not a number, and never the best
        for name, metric in self._val_means():
            if name in figures:
                metric.update(figures[name], len(batch))

    def on_validation_epoch_end(self) -> None:
        for name, metric in self._val_means():
            if metric.update_called:
                self.log(f"val/{name}", metric.compute())
            metric.reset()

    def _val_means(self) -> list[tuple[str, MeanMetric]]:
        return [(name, metric) for name, metric in self.val_means.items() if isinstance(metric, MeanMetric)]

    def configure_optimizers(self) -> Any:
        return adamw(self, self.hparams["optimizer"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.policy is not None
        checkpoint["stage"] = "jpo"  # a checkpoint of another stage is refused by name
        checkpoint["expression_policy"] = self.policy.identity
        checkpoint["jpo"] = {"start": self.policy.start, "memory": self.rollouts.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.policy is not None
        refuse_foreign(checkpoint.get("expression_policy", {}), self.policy.identity, "the checkpoint")
        if checkpoint["jpo"]["start"] != self.policy.start:
            raise UserError(
                f"the checkpoint was trained from another adapter than {self.hparams['policy'].get('init_adapter')}; "
                "put that adapter back, or start this stage over"
            )
        self.rollouts.restore(checkpoint["jpo"]["memory"])
