"""The networks: shapes, what no hidden layer means, and that the twins are two."""

import pytest
import torch
from torch import nn

from emodistill.networks import TwinQ, mlp


@pytest.mark.parametrize("hidden_dims", [[], [8], [8, 16]])
def test_widths_are_as_asked(hidden_dims):
    network = mlp(5, hidden_dims, 3)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [*hidden_dims, 3]
    assert sum(isinstance(layer, nn.ReLU) for layer in network) == len(hidden_dims)
    assert network(torch.randn(2, 4, 5)).shape == (2, 4, 3)
    assert isinstance(network[-1], nn.Linear)  # values and logits are unbounded: no activation at the end


def test_no_hidden_layer_is_affine():
    network, x, y = mlp(5, [], 3), torch.randn(5), torch.randn(5)
    torch.testing.assert_close(network(x) + network(y), network(x + y) + network(torch.zeros(5)))


def test_a_hidden_layer_is_not():
    torch.manual_seed(0)
    network, x, y = mlp(5, [8], 3), torch.randn(5), torch.randn(5)
    assert not torch.allclose(network(x) + network(y), network(x + y) + network(torch.zeros(5)))


def test_twins_share_nothing_and_the_smaller_one_is_believed():
    torch.manual_seed(0)
    twins, observation, action = TwinQ(4, 6, [8]), torch.randn(32, 4), torch.randint(0, 6, (32,))
    first, second = twins.both(observation, action)
    assert first.shape == second.shape == (32,)
    rows = torch.arange(32)
    torch.testing.assert_close(first, twins.q1(observation)[rows, action])
    torch.testing.assert_close(second, twins.q2(observation)[rows, action])
    assert (first > second).any() and (first < second).any()
    value = twins(observation, action)
    assert (value <= first).all() and (value <= second).all()
    assert ((value == first) | (value == second)).all()
    torch.testing.assert_close(twins.all_actions(observation)[rows, action], value)
    first.sum().backward()
    assert all(parameter.grad is None for parameter in twins.q2.parameters())
