"""The selector: Implicit Q-Learning (Kostrikov et al. 2022, https://arxiv.org/abs/2110.06169) over emotions.

Which emotion to show is learned from logged dialogues alone. IQL never asks what an action that was not taken would
have been worth: it learns the upper expectile of what was seen, and copies the actions that did better than it.

Shapes: B turns, D numbers an observation, A emotions.
"""

import copy
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emodistill.data.transitions import TransitionEpisodes, Transitions
from emodistill.errors import UserError
from emodistill.learners.corpus_facts import CorpusFacts, same_vocabulary
from emodistill.learners.iql_checks import check_losses, check_settings
from emodistill.learners.iql_figures import training_figures, validation_figures
from emodistill.losses import expectile_loss
from emodistill.networks import TwinQ, mlp

__all__ = ["IQLLearner", "TransitionEpisodes", "Transitions"]


class IQLLearner(L.LightningModule):
    """Q, V and policy heads, trained together.

    The heads share no parameter and all three losses are taken at the same weights, so one Adam over three groups is
    three Adams bit for bit (tests/learners/test_iql.py), and a step of the trainer is one update of each.

    Rewards arrive raw and are divided by the corpus's `reward_scale` here; Q, V and advantages are in scaled units.

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
        transition_facts: see `CorpusFacts`; None takes them from `trainer.datamodule.transition_facts`, or leaves
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
        transition_facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()  # plain numbers, strings, lists and dicts: checkpoints load with weights_only=True
        check_settings(self.hparams)
        self.q = TwinQ(observation_dim, num_emotions, hidden_dims)
        self.v = mlp(observation_dim, hidden_dims, 1)
        self.policy = mlp(observation_dim, hidden_dims, num_emotions)
        self.target_q = copy.deepcopy(self.q).requires_grad_(False)
        self.facts = CorpusFacts(observation_dim, num_emotions)
        self.emotion_shares: dict[str, Tensor] = {}  # of the last validation, each (A,): corpus, policy, greedy
        if transition_facts is not None:
            self.facts.take(transition_facts)

    def forward(self, observation: Tensor) -> Tensor:
        """Emotion logits of the policy, -inf for emotions the corpus never showed: (B, D) -> (B, A)."""
        return self.facts.mask(self.policy(self.facts.standardise(observation)))

    def losses(self, batch: Transitions) -> dict[str, Tensor]:
        """The three scalar losses by head (eqs. 5, 6 and 7; METHOD 5)."""
        hp = self.hparams
        observation = self.facts.standardise(batch.observation)
        with torch.no_grad():
            next_v = self.v(self.facts.standardise(batch.next_observation)).squeeze(-1)
            going_on = 1.0 - batch.terminal.to(next_v.dtype)
            td_target = batch.reward / self.facts.reward_scale + hp["discount"] * going_on * next_v
            pessimistic_q = self.target_q(observation, batch.action)
        advantage = pessimistic_q - self.v(observation).squeeze(-1)
        weight = self.weights(advantage.detach())
        nll = F.cross_entropy(self.facts.mask(self.policy(observation)), batch.action, reduction="none")
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

    @torch.no_grad()
    def advantages(self, observation: Tensor, action: Tensor) -> Tensor:
        """min Q' - V of the given emotions, in scaled units: (B, D), (B,) -> (B,)."""
        observation = self.facts.standardise(observation)
        return torch.sub(self.target_q(observation, action), self.v(observation).squeeze(-1))

    @torch.no_grad()
    def q_values(self, observation: Tensor) -> Tensor:
        """min(Q1, Q2) of every emotion, in scaled units: (B, D) -> (B, A)."""
        return self.q.all_actions(self.facts.standardise(observation))

    @torch.no_grad()
    def act(
        self, observation: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Emotions for these observations, and the distributions they were drawn from: (B, D) -> (B,), (B, A).

        At temperature 0 the likeliest emotion, with probability 1. An observation that is not a number, or a negative
        temperature, is a UserError.
        """
        if not bool(torch.isfinite(observation).all()):
            raise UserError("an observation is not finite; check the offers of the dialogue it was made from")
        if temperature < 0:
            raise UserError(f"temperature={temperature}: use 0 for the likeliest emotion, or a number above 0")
        logits = self(observation)
        if temperature == 0:
            action = logits.argmax(-1)
            return action, F.one_hot(action, logits.shape[-1]).to(logits.dtype)
        probabilities = (logits / temperature).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1), probabilities

    def setup(self, stage: str) -> None:
        facts = getattr(getattr(self.trainer, "datamodule", None), "transition_facts", None)
        if not facts:
            return
        if self.hparams["transition_facts"] is None:
            self.facts.take(facts)
            self.hparams["transition_facts"] = dict(facts)
        same_vocabulary(self.hparams["transition_facts"], facts)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = "iql"  # a checkpoint of another stage is refused by name

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get("hyper_parameters", {}).get("transition_facts")
        if stored and self.hparams["transition_facts"]:
            same_vocabulary(stored, self.hparams["transition_facts"])
        self.hparams["transition_facts"] = stored  # and the buffers, which are restored next, are these

    def training_step(self, batch: Transitions, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        if self._logs_this_step():  # the figures cost about as much as the update: only where they are written
            check_losses(losses, self.global_step)
            figures = training_figures(self, batch)
            figures |= {f"train/{head}_loss": loss.detach() for head, loss in losses.items()}
            self.log_dict(figures, batch_size=len(batch.action))
        return losses["q"] + losses["v"] + losses["policy"]

    def validation_step(self, batch: Transitions | TransitionEpisodes, batch_idx: int) -> None:
        figures, self.emotion_shares = validation_figures(self, batch)
        self.log_dict(figures, batch_size=len(batch[1]))

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
        """Clip each head by its own norm: a large Q gradient must not shrink the policy's."""
        if gradient_clip_val:
            for group in optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_target()  # here and not at the end of a batch: accumulated batches make one step

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target Q by `polyak` of its distance to Q."""
        for target, online in zip(self.target_q.parameters(), self.q.parameters(), strict=True):
            target.lerp_(online, self.hparams["polyak"])

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The trained networks by the name of their loss."""
        return {"q": self.q, "v": self.v, "policy": self.policy}

    def _logs_this_step(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside of its class body
        return bool(every) and (self.trainer.global_step + 1) % every == 0
