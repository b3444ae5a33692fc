"""The networks of the selector, apart from how they are trained: who plays with them needs no trainer.

Shapes: B turns, D numbers an observation, A emotions.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emodistill.errors import UserError
from emodistill.networks import TwinQ, mlp

TENSORS = ("observation_mean", "observation_std", "reward_scale", "action_mask")
NAMES = ("labels", "vocabulary", "fingerprint")


class DatasetStats(nn.Module):
    """What a selector must know of the corpus it learned from: standardises observations and masks unseen emotions.

    The statistics are buffers, so a checkpoint is enough to play with; none is ever recomputed from other data. Until
    `take` is called they change nothing.
    """

    observation_mean: Tensor  # (D,)
    observation_std: Tensor  # (D,)
    reward_scale: Tensor  # (), what rewards are divided by
    action_mask: Tensor  # (A,) bool, the emotions that occur in the corpus

    def __init__(self, observation_dim: int, num_emotions: int) -> None:
        super().__init__()
        self.register_buffer("observation_mean", torch.zeros(observation_dim))
        self.register_buffer("observation_std", torch.ones(observation_dim))
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("action_mask", torch.ones(num_emotions, dtype=torch.bool))

    def take(self, stats: Mapping[str, Any]) -> None:
        """Adopt these statistics: plain numbers and lists under the names of the buffers, and `labels`.

        Raises:
            UserError: naming the key that is missing, of the wrong length or out of range.
        """
        missing = [key for key in (*TENSORS, *NAMES) if key not in stats]
        if missing:
            raise UserError(
                f"the dataset statistics lack '{missing[0]}'; they have the keys {', '.join((*NAMES, *TENSORS))}"
            )
        for key in TENSORS:
            self._adopt(key, stats[key])
        if len(stats["labels"]) != len(self.action_mask):
            raise UserError(
                f"the vocabulary '{stats['vocabulary']}' has {len(stats['labels'])} labels but the learner "
                f"num_emotions={len(self.action_mask)}; set num_emotions to the size of the vocabulary"
            )
        self._check()

    def standardise(self, observation: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return (observation - self.observation_mean) / self.observation_std

    def mask(self, logits: Tensor) -> Tensor:
        """-inf where the corpus never showed the emotion: (B, A) -> (B, A)."""
        return logits.masked_fill(~self.action_mask, -torch.inf)

    def _adopt(self, key: str, value: Any) -> None:
        buffer: Tensor = getattr(self, key)
        tensor = torch.as_tensor(value, dtype=buffer.dtype)
        if tensor.shape != buffer.shape:
            raise UserError(
                f"the dataset statistics have '{key}' of shape {tuple(tensor.shape)} but the learner needs "
                f"{tuple(buffer.shape)}; set observation_dim and num_emotions to what the corpus has"
            )
        buffer.copy_(tensor)

    def _check(self) -> None:
        std, scale = self.observation_std, self.reward_scale
        ranges = {
            "observation_mean": (torch.isfinite(self.observation_mean).all(), "finite"),
            "observation_std": ((torch.isfinite(std) & (std > 0)).all(), "above 0"),
            "reward_scale": (torch.isfinite(scale) & (scale > 0), "a number above 0"),
            "action_mask": (self.action_mask.any(), "true for at least one emotion"),
        }
        for key, (good, wanted) in ranges.items():
            if not bool(good):
                raise UserError(f"the dataset statistics have '{key}' that is not {wanted}; check the corpus")


def check_temperature(temperature: float) -> None:
    """Refuse a negative temperature, which would prefer what a policy likes least.

    Raises:
        UserError: if it is negative.
    """
    if temperature < 0:
        raise UserError(f"temperature={temperature}: use 0 for the likeliest emotion, or a number above 0")


class SelectorNetworks(nn.Module):
    """Q, its target, V and policy, and the statistics of the corpus that they learned from.

    Args:
        observation_dim: D.
        num_emotions: A.
        hidden_dims: widths of the hidden layers of every network; [] is linear networks.
        dataset_stats: see `DatasetStats`; None leaves observations and rewards as they are.
    """

    def __init__(
        self,
        observation_dim: int,
        num_emotions: int,
        hidden_dims: Sequence[int],
        dataset_stats: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.q = TwinQ(observation_dim, num_emotions, hidden_dims)
        self.v = mlp(observation_dim, hidden_dims, 1)
        self.policy = mlp(observation_dim, hidden_dims, num_emotions)
        self.target_q = copy.deepcopy(self.q).requires_grad_(False)
        self.stats = DatasetStats(observation_dim, num_emotions)
        if dataset_stats is not None:
            self.stats.take(dataset_stats)

    def forward(self, observation: Tensor) -> Tensor:
        """Emotion logits of the policy, -inf for emotions the corpus never showed: (B, D) -> (B, A)."""
        return self.stats.mask(self.unmasked(observation))

    def unmasked(self, observation: Tensor) -> Tensor:
        """Emotion logits of the policy, also for emotions the corpus never showed: (B, D) -> (B, A)."""
        logits: Tensor = self.policy(self.stats.standardise(observation))
        return logits

    @torch.no_grad()
    def advantages(self, observation: Tensor, action: Tensor) -> Tensor:
        """min Q' - V of the given emotions, in scaled units: (B, D), (B,) -> (B,)."""
        observation = self.stats.standardise(observation)
        return torch.sub(self.target_q(observation, action), self.v(observation).squeeze(-1))

    @torch.no_grad()
    def q_values(self, observation: Tensor) -> Tensor:
        """min(Q1, Q2) of every emotion, in scaled units: (B, D) -> (B, A)."""
        return self.q.all_actions(self.stats.standardise(observation))

    @torch.no_grad()
    def greedy(self, observation: Tensor) -> Tensor:
        """The greedy policy, as one-hot probabilities: (B, D) -> (B, A)."""
        logits = self(observation)
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
