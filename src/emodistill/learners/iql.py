"""The selector: Implicit Q-Learning (Kostrikov et al. 2022, https://arxiv.org/abs/2110.06169) over emotions.

Which emotion to show is learned from logged dialogues alone. IQL never asks what an action that was not taken would
have been worth: it learns the upper expectile of what was seen, and copies the actions that did better than it.

Rewards arrive raw and are divided by the corpus's `reward_scale` here; Q, V and advantages are in scaled units.
Estimates of the policy's value are in reward, so that runs with other scales can be compared.

Shapes: B turns, D numbers an observation, A emotions.
"""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emodistill.checks import ABOVE_0, FROM_0, Allowed, check_settings, is_number, is_whole
from emodistill.data.transitions import TransitionEpisodes, Transitions
from emodistill.errors import UserError
from emodistill.learners.ope import FittedQ, fitted_q_value, importance_sampled_value, mean_return
from emodistill.learners.selector_networks import DatasetStats, SelectorNetworks
from emodistill.losses import expectile_loss

__all__ = ["DatasetStats", "IQLLearner", "Transitions"]

Metrics = dict[str, Tensor | float]

HEADS = ("q", "v", "policy")


def same_vocabulary(learned: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse to go on with another vocabulary than the one that was learned, even if it has as many labels.

    Raises:
        UserError: naming both.
    """
    if learned["fingerprint"] != given["fingerprint"]:
        raise UserError(
            f"the selector learned the vocabulary '{learned['vocabulary']}' ({learned['fingerprint']}) and is given "
            f"'{given['vocabulary']}' ({given['fingerprint']}); use the vocabulary it learned, or train it again"
        )


_ALLOWED: Allowed = {
    "observation_dim": (is_whole, "a whole number of at least 1"),
    "num_emotions": (is_whole, "a whole number of at least 1"),
    "hidden_dims": (
        lambda v: isinstance(v, (list, tuple)) and all(map(is_whole, v)),
        "a list of widths, [] for linear",
    ),
    "discount": (lambda v: is_number(v) and 0 <= v <= 1, "between 0 and 1"),
    "expectile": (lambda v: is_number(v) and 0 < v < 1, "above 0 and below 1"),
    "inverse_temperature": FROM_0,
    "max_advantage_weight": ABOVE_0,
    "polyak": (lambda v: is_number(v) and 0 < v <= 1, "above 0 and at most 1"),
    "learning_rates": (
        lambda v: isinstance(v, Mapping) and set(v) == set(HEADS) and all(is_number(r) and r > 0 for r in v.values()),
        "{q: ..., v: ..., policy: ...}, each above 0",
    ),
    "fqe_updates": (is_whole, "a whole number of at least 1"),
}


class IQLLearner(SelectorNetworks, L.LightningModule):
    """Q, V and policy heads, trained together.

    The heads share no parameter and all three losses are taken at the same weights, so one Adam over three groups is
    three Adams bit for bit (tests/learners/test_iql.py), and a step of the trainer is one update of each.

    Args:
        observation_dim: D.
        num_emotions: A.
        hidden_dims: widths of the hidden layers of every head; [] is linear heads.
        discount: per turn, between 0 and 1.
        expectile: of the V loss; 0.5 is the mean of what was seen, near 1 its best.
        inverse_temperature: 0 copies the corpus, large follows the advantage alone.
        max_advantage_weight: no turn counts more than this in the policy loss.
        polyak: the share of the way that the target Q moves towards Q in a step.
        learning_rates: one each for `q`, `v` and `policy`.
        fqe_updates: of the fit behind `val/fqe_value`; the default is meant for some thousand validation turns.
        dataset_stats: see `DatasetStats`; None takes them from `trainer.datamodule.dataset_stats`, or leaves
            observations and rewards as they are where there is no such thing.
    """

    def __init__(
        self,
        observation_dim: int,
        num_emotions: int,
        hidden_dims: list[int],
        discount: float,
        expectile: float,
        inverse_temperature: float,
        max_advantage_weight: float,
        polyak: float,
        learning_rates: dict[str, float],
        dataset_stats: dict[str, Any] | None = None,
        fqe_updates: int = 1000,
    ) -> None:
        check_settings(locals(), _ALLOWED)
        super().__init__(observation_dim, num_emotions, hidden_dims, dataset_stats)
        self.save_hyperparameters()  # plain numbers, strings, lists and dicts: checkpoints load with weights_only=True
        self.emotion_shares: dict[str, Tensor] = {}  # of the last validation, each (A,): corpus, policy, greedy

    def losses(self, batch: Transitions) -> dict[str, Tensor]:
        """The three scalar losses by head (eqs. 5, 6 and 7)."""
        hp = self.hparams
        observation = self.stats.standardise(batch.observation)
        with torch.no_grad():
            next_v = self.v(self.stats.standardise(batch.next_observation)).squeeze(-1)
            not_done = 1.0 - batch.terminal.to(next_v.dtype)
            td_target = batch.reward / self.stats.reward_scale + hp["discount"] * not_done * next_v
            pessimistic_q = self.target_q(observation, batch.action)
        advantage = pessimistic_q - self.v(observation).squeeze(-1)
        weight = self.weights(advantage.detach())
        nll = F.cross_entropy(self.stats.mask(self.policy(observation)), batch.action, reduction="none")
        first, second = self.q.both(observation, batch.action)
        return {
            "q": F.mse_loss(first, td_target) + F.mse_loss(second, td_target),
            "v": expectile_loss(advantage, hp["expectile"]),
            "policy": (weight * nll).mean(),
        }

    def weights(self, advantage: Tensor) -> Tensor:
        """How much each turn counts in the policy loss, (B,) -> (B,)."""
        weight: Tensor = (self.hparams["inverse_temperature"] * advantage).exp()
        return weight.clamp(max=self.hparams["max_advantage_weight"])

    def setup(self, stage: str) -> None:
        stats = getattr(getattr(self.trainer, "datamodule", None), "dataset_stats", None)
        if not stats:
            return
        if self.hparams["dataset_stats"] is None:
            self.stats.take(stats)
            self.hparams["dataset_stats"] = dict(stats)
        same_vocabulary(self.hparams["dataset_stats"], stats)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = "iql"  # a checkpoint of another stage is refused by name

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get("hyper_parameters", {}).get("dataset_stats")
        if stored and self.hparams["dataset_stats"]:
            same_vocabulary(stored, self.hparams["dataset_stats"])
        self.hparams["dataset_stats"] = stored  # and the buffers, which are restored next, are these

    def training_step(self, batch: Transitions, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        if self._logs_this_step():  # the metrics cost about as much as the update: only where they are written
            for head, loss in losses.items():
                if not math.isfinite(loss.item()):
                    raise UserError(
                        f"the {head} loss is {loss.item()} at step {self.global_step}; lower "
                        f"learner.learning_rates.{head}, or look for rewards and observations in the corpus that are "
                        "not finite"
                    )
            metrics: Metrics = {f"train/{head}_loss": loss.detach() for head, loss in losses.items()}
            self.log_dict(metrics | self.training_metrics(batch), batch_size=len(batch.action))
        return losses["q"] + losses["v"] + losses["policy"]

    @torch.no_grad()
    def training_metrics(self, batch: Transitions) -> Metrics:
        """Q, V and advantage statistics, share of capped weights, entropy of the policy (nats), learning rates."""
        observation = self.stats.standardise(batch.observation)
        q, v = self.target_q(observation, batch.action), self.v(observation).squeeze(-1)
        metrics: Metrics = {}
        for name, values in {"q": q, "v": v, "advantage": q - v}.items():
            metrics |= {f"train/{name}_mean": values.mean(), f"train/{name}_std": values.std(correction=0)}
            metrics |= {f"train/{name}_min": values.min(), f"train/{name}_max": values.max()}
        capped = self.weights(q - v) >= self.hparams["max_advantage_weight"]
        metrics["train/weight_clip_share"] = capped.float().mean()
        metrics["train/policy_entropy"] = entropy(self(batch.observation).softmax(-1)).mean()
        for group in self.trainer.optimizers[0].param_groups:
            metrics[f"train/learning_rate_{group['name']}"] = group["lr"]
        return metrics

    def validation_step(self, batch: Transitions | TransitionEpisodes, batch_idx: int) -> None:
        """The whole validation split at once: the policy described, and its value estimated.

        Plain transitions have no episodes: their policy can be described but not evaluated.
        """
        rows = batch.transitions if isinstance(batch, TransitionEpisodes) else batch
        policy = self(rows.observation).softmax(-1)
        taken = policy.gather(-1, rows.action.unsqueeze(-1)).squeeze(-1)
        known = taken > 0  # an emotion that only the validation split shows is masked, and has no likelihood
        metrics: Metrics = {
            "val/policy_nll": -taken[known].log().mean() if bool(known.any()) else torch.inf,
            "val/policy_entropy": entropy(policy).mean(),
            "val/advantage_mean": self.advantages(rows.observation, rows.action).mean(),
        }
        if isinstance(batch, TransitionEpisodes):
            metrics |= self._value_metrics(batch, policy, taken)
        count = policy.shape[-1]
        self.emotion_shares = {
            "corpus": F.one_hot(rows.action, count).float().mean(0),
            "policy": policy.mean(0),
            "greedy": F.one_hot(policy.argmax(-1), count).float().mean(0),
        }
        self.log_dict(metrics, batch_size=len(rows.action))

    def _value_metrics(self, batch: TransitionEpisodes, policy: Tensor, taken: Tensor) -> Metrics:
        """Estimates of the policy's value, in reward.

        Args:
            policy: its probabilities, (B, A).
            taken: its probability of each logged action, (B,).
        """
        discount, rows = self.hparams["discount"], batch.transitions
        observation, following = (self.stats.standardise(o) for o in (rows.observation, rows.next_observation))
        standardised = batch._replace(transitions=rows._replace(observation=observation, next_observation=following))
        weighted = importance_sampled_value(batch, taken, discount)
        name = "val/pdwis_value" if weighted.reliable else "val/pdwis_value_unreliable"
        next_policy, fit = self(rows.next_observation).softmax(-1), FittedQ(iterations=self.hparams["fqe_updates"])
        metrics: Metrics = {
            "val/fqe_value": fitted_q_value(standardised, policy, next_policy, discount, fit),
            "val/behaviour_value": mean_return(batch, discount),
            "val/pdwis_effective_size": weighted.effective_size,
        }
        return metrics | ({name: weighted.value} if weighted.effective_size > 0 else {})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rates = self.hparams["learning_rates"]
        groups = [{"params": net.parameters(), "lr": rates[name], "name": name} for name, net in self.heads.items()]
        return torch.optim.Adam(groups, fused=True)  # one kernel instead of a dozen a parameter

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each head by its own norm: a large Q gradient must not shrink the policy's.

        It computes as `torch.nn.utils.clip_grad_norm_` for each head, which costs three times as much to call.
        """
        if not gradient_clip_val:
            return
        heads = [[p.grad for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
        norms = torch.stack(torch._foreach_norm([gradient for head in heads for gradient in head]))
        for head, own in zip(heads, torch.split(norms, [len(head) for head in heads]), strict=True):
            share = gradient_clip_val / (torch.linalg.vector_norm(own) + 1e-6)
            torch._foreach_mul_(head, share.clamp(max=1.0))

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """As `Optimizer.zero_grad`, without its bookkeeping for profilers, which takes longer than the work."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_target()  # here and not at the end of a batch: accumulated batches make one step
        if self.trainer.global_step + 1 == self.trainer.max_steps:
            self.trainer.should_stop = True  # Lightning validates before it stops, also between two validations

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target Q by `polyak` of its distance to Q."""
        torch._foreach_lerp_(self.target_q.weights, self.q.weights, self.hparams["polyak"])

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The trained networks by the name of their loss."""
        return {"q": self.q, "v": self.v, "policy": self.policy}

    def _logs_this_step(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside of its class body
        return bool(every) and (self.trainer.global_step + 1) % every == 0


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats, row by row: (B, A) -> (B,)."""
    summed: Tensor = torch.special.entr(probabilities).sum(-1)
    return summed
