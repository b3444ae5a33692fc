"""The losses: definitions, values by hand, and gradients where they must vanish."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emodistill.losses import clipped_surrogate, expectile_loss, kl_k3, preference_loss

finite = st.floats(-20, 20, allow_nan=False)


def test_expectile_loss_weighs_each_side_by_its_share():
    torch.testing.assert_close(expectile_loss(torch.tensor([2.0]), 0.7), torch.tensor(2.8))
    torch.testing.assert_close(expectile_loss(torch.tensor([-2.0]), 0.7), torch.tensor(1.2))
    torch.testing.assert_close(expectile_loss(torch.tensor([2.0, -2.0]), 0.7), torch.tensor(2.0))


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9])
def test_the_minimiser_is_the_expectile(expectile):
    """At the optimum v: expectile * E[(x - v)+] = (1 - expectile) * E[(v - x)+], which is what the word means."""
    samples = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([v], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        expectile_loss(samples - v, expectile).backward()
        optimizer.step()
    above, below = (samples - v).clamp(min=0).mean(), (v - samples).clamp(min=0).mean()
    torch.testing.assert_close(expectile * above, (1 - expectile) * below, atol=1e-9, rtol=0)


@given(st.lists(finite, min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_mirrored_errors_with_the_mirrored_expectile_cost_the_same(errors, expectile):
    error = torch.tensor(errors, dtype=torch.float64)
    torch.testing.assert_close(expectile_loss(error, expectile), expectile_loss(-error, 1 - expectile))


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected"),
    [
        (1.0, 1.0, -1.2),  # good and already likelier: no more to gain
        (-1.0, -1.0, 0.8),  # bad and already rarer: no more to gain
        (1.0, -1.0, math.e),  # bad and made likelier: the whole penalty
        (-1.0, 1.0, -math.exp(-1)),  # good and made rarer: the whole loss
        (0.1, 2.0, -2 * math.exp(0.1)),  # inside the range
    ],
)
def test_clipped_surrogate_by_hand(log_ratio, advantage, expected):
    loss = clipped_surrogate(torch.tensor([log_ratio]), torch.tensor([advantage]), clip_range=0.2)
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"), [(1.0, 1.0, False), (-1.0, -1.0, False), (1.0, -1.0, True)]
)
def test_beyond_the_clip_only_the_way_back_has_a_gradient(log_ratio, advantage, moves):
    log_ratio = torch.tensor([log_ratio], requires_grad=True)
    clipped_surrogate(log_ratio, torch.tensor([advantage]), clip_range=0.2).backward()
    assert (log_ratio.grad.item() != 0.0) is moves


def test_at_the_reference_the_gradient_is_the_policy_gradient():
    log_ratio, advantage = torch.zeros(4, requires_grad=True), torch.tensor([1.0, -2.0, 0.5, 0.0])
    clipped_surrogate(log_ratio, advantage, clip_range=0.2).backward()
    torch.testing.assert_close(log_ratio.grad, -advantage / 4)


@given(st.lists(finite, min_size=2, max_size=6), st.lists(finite, min_size=6, max_size=6))
def test_kl_k3_averages_to_the_divergence(policy_logits, reference_logits):
    policy = torch.tensor(policy_logits, dtype=torch.float64).log_softmax(0)
    reference = torch.tensor(reference_logits[: len(policy_logits)], dtype=torch.float64).log_softmax(0)
    divergence = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * kl_k3(policy, reference)).sum(), divergence, atol=1e-7, rtol=1e-6)


@given(finite, finite)
def test_kl_k3_is_never_negative_and_zero_only_in_agreement(logprob, ref_logprob):
    value = kl_k3(torch.tensor(logprob, dtype=torch.float64), torch.tensor(ref_logprob, dtype=torch.float64)).item()
    assert value >= 0.0
    assert value > 0.0 or abs(logprob - ref_logprob) < 1e-6
    assert kl_k3(torch.tensor(logprob), torch.tensor(logprob)).item() == 0.0


def test_kl_k3_keeps_its_digits_close_to_the_reference():
    """In float32, exp(1e-4) - 1e-4 - 1 is mostly rounding; the true value is 5e-9."""
    assert kl_k3(torch.tensor(0.0), torch.tensor(1e-4)).item() == pytest.approx(5e-9, rel=0.01)


def test_preferences_by_hand():
    margin, likelihood = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, -3.0])
    expected = (math.log(2) + math.log(1 + math.exp(-1.0))) / 2 + 0.1 * 2.0
    found = preference_loss(margin, likelihood, scale=0.5, nll_weight=0.1)
    torch.testing.assert_close(found, torch.tensor(expected))
