"""Off-policy estimates against a decision process whose values are known by a linear solve."""

import math

import numpy as np
import pytest
import torch

from emodistill.data.transitions import TransitionEpisodes, Transitions
from emodistill.learners.ope import FittedQ, fitted_q_value, importance_sampled_value, mean_return

DISCOUNT, STATES, ACTIONS = 0.9, 5, 3
LINEAR = FittedQ(hidden_dims=(), iterations=1500, learning_rate=0.02)


@pytest.fixture(scope="module")
def process():
    """P (S, A, S + 1) with an end as last state, r (S, A), and two policies (S, A): behaviour and evaluated."""
    rng = np.random.default_rng(3)
    transition = rng.dirichlet(np.full(STATES + 1, 0.7), (STATES, ACTIONS))
    transition = 0.7 * transition + 0.3 * np.eye(STATES + 1)[-1]
    reward = rng.normal(0, 1, (STATES, ACTIONS)) + np.array([0.0, 0.0, 2.0])
    behaviour = np.full((STATES, ACTIONS), 1 / ACTIONS)
    evaluated = rng.dirichlet(np.full(ACTIONS, 2.0), STATES) * 0.6 + np.array([0.05, 0.05, 0.3])
    return transition, reward, behaviour, evaluated


@pytest.fixture(scope="module")
def episodes(process):
    return roll_out(process, count=1500, seed=0)


def exact(process, policy):
    """Value of a policy from the uniform first state, by solving V = r + discount * P V."""
    transition, reward, *_ = process
    step = np.einsum("sa,sat->st", policy, transition)[:, :STATES]
    return np.linalg.solve(np.eye(STATES) - DISCOUNT * step, (policy * reward).sum(1)).mean()


def roll_out(process, count, seed):
    transition, reward, behaviour, _ = process
    rng, rows = np.random.default_rng(seed), []
    for episode in range(count):
        state, step = rng.integers(STATES), 0
        while state < STATES:
            action = rng.choice(ACTIONS, p=behaviour[state])
            after = rng.choice(STATES + 1, p=transition[state, action])
            rows.append((state, action, reward[state, action], after, episode, step, behaviour[state, action]))
            state, step = after, step + 1
    state, action, earned, after, episode, step, prob = (torch.tensor(np.array(c)) for c in zip(*rows, strict=True))
    one_hot = torch.eye(STATES + 1)
    columns = one_hot[state], action, earned.float(), one_hot[after], (after == STATES).float()
    return TransitionEpisodes(Transitions(*columns), episode, step, prob.float())


def at(policy, observation):
    """The policy's probabilities at one-hot observations; at the end, anything."""
    return observation @ torch.tensor(np.vstack([policy, np.full(ACTIONS, 1 / ACTIONS)])).float()


def taken(policy, episodes):
    rows = episodes.transitions
    return at(policy, rows.observation).gather(1, rows.action[:, None]).squeeze(1)


def fitted(policy, episodes, fit=LINEAR):
    rows = episodes.transitions
    return fitted_q_value(episodes, at(policy, rows.observation), at(policy, rows.next_observation), DISCOUNT, fit)


@pytest.mark.parametrize("fit", [LINEAR, FittedQ()])
def test_fitted_q_finds_the_value_of_another_policy(process, episodes, fit):
    target, logged = exact(process, process[3]), exact(process, process[2])
    assert abs(target - logged) > 0.5  # else copying the logged returns would pass
    assert fitted(process[3], episodes, fit) == pytest.approx(target, abs=0.12)
    assert fitted(process[2], episodes, fit) == pytest.approx(mean_return(episodes, DISCOUNT), abs=0.12)


def test_fitted_q_does_not_depend_on_the_unit_of_reward(process, episodes):
    rows = episodes.transitions
    cents = episodes._replace(transitions=rows._replace(reward=rows.reward * 100))
    assert fitted(process[3], cents) == pytest.approx(100 * fitted(process[3], episodes), rel=1e-3)


def test_fitted_q_is_a_function_of_its_arguments(process, episodes):
    short = FittedQ(iterations=30)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fitted(process[3], episodes, short)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert fitted(process[3], episodes, short) == first
    with torch.inference_mode():
        rows = Transitions(*(column.clone() for column in episodes.transitions))
        assert fitted(process[3], episodes._replace(transitions=rows), short) == first


def test_importance_sampling_finds_the_value_of_another_policy(process, episodes):
    estimate = importance_sampled_value(episodes, taken(process[3], episodes), DISCOUNT)
    assert estimate.value == pytest.approx(exact(process, process[3]), abs=0.25)
    assert abs(estimate.value - mean_return(episodes, DISCOUNT)) > 0.4
    assert 30 < estimate.effective_size < 1500 and estimate.reliable


def test_the_logged_policy_weighs_all_alike(process, episodes):
    estimate = importance_sampled_value(episodes, taken(process[2], episodes), DISCOUNT)
    assert estimate.value == pytest.approx(mean_return(episodes, DISCOUNT), rel=1e-6)
    assert estimate.effective_size == pytest.approx(1500)
    assert mean_return(episodes, DISCOUNT) == pytest.approx(exact(process, process[2]), abs=0.15)


def two_episodes(**changes):
    """One of two turns (rewards 1, 2), one of one turn (reward 5), each action with probability one half."""
    terminal = changes.pop("terminal", torch.tensor([0.0, 1.0, 1.0]))
    rows = Transitions(
        torch.zeros(3, 1), torch.zeros(3).long(), torch.tensor([1.0, 2.0, 5.0]), torch.zeros(3, 1), terminal
    )
    columns = {
        "episode": torch.tensor([7, 7, 9]),
        "step": torch.tensor([0, 1, 0]),
        "behaviour_prob": torch.full((3,), 0.5),
    }
    return TransitionEpisodes(transitions=rows, **{**columns, **changes})


def test_weights_by_hand():
    """Products of ratios: 1.5 then 1.5 * 0.5 = 0.75 for the first episode; 0.5, kept after its end, for the second."""
    estimate = importance_sampled_value(two_episodes(), torch.tensor([0.75, 0.25, 0.25]), discount=0.9)
    first_turn = (1.5 * 1.0 + 0.5 * 5.0) / (1.5 + 0.5)
    second_turn = (0.75 * 2.0 + 0.5 * 0.0) / (0.75 + 0.5)
    assert estimate.value == pytest.approx(first_turn + 0.9 * second_turn)
    assert estimate.effective_size == pytest.approx((0.75 + 0.5) ** 2 / (0.75**2 + 0.5**2))
    assert not estimate.reliable
    assert importance_sampled_value(two_episodes(), torch.full((3,), 0.5), 0.9, minimum_effective_size=2.0).reliable
    assert mean_return(two_episodes(), 0.9) == pytest.approx((1 + 0.9 * 2 + 5) / 2)


def test_the_order_of_the_rows_does_not_matter(process):
    episodes = roll_out(process, count=50, seed=2)
    order = torch.randperm(len(episodes.step), generator=torch.Generator().manual_seed(0))
    rows = Transitions(*(column[order] for column in episodes.transitions))
    shuffled = TransitionEpisodes(rows, episodes.episode[order], episodes.step[order], episodes.behaviour_prob[order])
    one, two = (importance_sampled_value(e, taken(process[3], e), DISCOUNT) for e in (episodes, shuffled))
    assert one.value == pytest.approx(two.value) and one.effective_size == pytest.approx(two.effective_size)


@pytest.mark.parametrize(
    "changes",
    [
        {"behaviour_prob": torch.tensor([0.5, math.nan, 0.5])},  # nobody knows how the emotion was drawn
        {"step": torch.tensor([0, 2, 0])},  # a turn in between was left out
        {"step": torch.tensor([1, 2, 0])},  # the first turn was left out
        {"terminal": torch.tensor([0.0, 0.0, 1.0])},  # the last turn was left out
        {"step": torch.tensor([0, 0, 0])},  # two turns in one place
    ],
)
def test_what_cannot_be_weighed_has_no_value(changes):
    estimate = importance_sampled_value(two_episodes(**changes), torch.full((3,), 0.5), 0.9)
    assert math.isnan(estimate.value) and estimate.effective_size == 0 and not estimate.reliable


def test_a_policy_that_never_does_what_was_logged_has_no_value():
    estimate = importance_sampled_value(two_episodes(), torch.zeros(3), 0.9)
    assert math.isnan(estimate.value) and estimate.effective_size == 0 and not estimate.reliable
