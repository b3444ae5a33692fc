"""The small networks of the selector: feed-forward, over a vector of what the focal side has seen."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(input_dim: int, hidden_dims: Sequence[int], output_dim: int) -> nn.Sequential:
    """Feed-forward network with ReLU between layers, (..., input_dim) -> (..., output_dim).

    `hidden_dims=[]` is one linear layer; over one-hot inputs that is a table with an offset, which is how the learner
    is checked against exact solutions (tests/learners/test_iql_fixed_points.py).
    """
    widths = [input_dim, *hidden_dims]
    hidden = [layer for narrow, wide in pairwise(widths) for layer in (nn.Linear(narrow, wide), nn.ReLU(inplace=True))]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], output_dim))


class TwinQ(nn.Module):
    """Two action-value heads with nothing in common but their data; the smaller of the two is the one to believe.

    Source:
        Fujimoto et al. 2018 (clipped double Q-learning), https://arxiv.org/abs/1802.09477
    """

    def __init__(self, observation_dim: int, num_actions: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.q1 = mlp(observation_dim, hidden_dims, num_actions)
        self.q2 = mlp(observation_dim, hidden_dims, num_actions)

    @cached_property
    def weights(self) -> list[Tensor]:
        """All parameters; those of two networks of one shape in the same order."""
        return list(self.parameters())

    def both(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q1 and Q2 of the given actions: (B, D), (B,) -> two of (B,)."""
        index = action.unsqueeze(-1)
        first, second = (q(observation).gather(-1, index).squeeze(-1) for q in (self.q1, self.q2))
        return first, second

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """min(Q1, Q2) of the given actions: (B, D), (B,) -> (B,)."""
        return torch.minimum(*self.both(observation, action))

    def all_actions(self, observation: Tensor) -> Tensor:
        """min(Q1, Q2) of every action: (B, D) -> (B, A)."""
        return torch.minimum(self.q1(observation), self.q2(observation))
