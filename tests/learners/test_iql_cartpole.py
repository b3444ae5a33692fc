"""IQL on CartPole: from random play alone, a policy that balances (behaviour 22 steps, cloning it about 19)."""

import gymnasium
import numpy as np
import pytest
import torch

from emodistill.learners.iql import IQLLearner, Transitions

SEEDS, UPDATES, EPISODES = (0, 1, 2), 5000, 20


@pytest.mark.slow
def test_greedy_play_learned_from_random_play_balances(shared_data):
    table = read(shared_data / "iql" / "cartpole_random.npz")
    returns = [play(train(table, seed), seed) for seed in SEEDS]
    assert np.mean(returns) >= 300, f"mean return by seed: {returns}"


def read(path):
    with np.load(path) as stored:
        columns = [stored[key] for key in ("obs", "action", "reward", "next_obs", "terminated")]
    kinds = (torch.float32, torch.long, torch.float32, torch.float32, torch.float32)
    return Transitions(*(torch.as_tensor(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


def train(table, seed):
    torch.manual_seed(seed)
    learner = IQLLearner(
        observation_dim=4,
        num_emotions=2,
        hidden_dims=[64, 64],
        discount=0.99,
        expectile=0.7,
        inverse_temperature=3.0,
        max_advantage_weight=100.0,
        polyak=0.005,
        learning_rates={"q": 1e-3, "v": 1e-3, "policy": 1e-3},
        dataset_stats={
            "labels": ["left", "right"],
            "vocabulary": "pushes",
            "fingerprint": "pushes",
            "action_mask": [True, True],
            "reward_scale": 1.0,
            "observation_mean": table.observation.mean(0).tolist(),
            "observation_std": table.observation.std(0).tolist(),
        },
    )
    optimizer, generator = learner.configure_optimizers(), torch.Generator().manual_seed(seed)
    for _ in range(UPDATES):
        index = torch.randint(len(table.action), (128,), generator=generator)
        optimizer.zero_grad()
        sum(learner.losses(Transitions(*(column[index] for column in table))).values()).backward()
        learner.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()
        learner.update_target()
    return learner


def play(learner, seed):
    """Mean return of greedy play over some episodes, stepped side by side."""
    worlds = [gymnasium.make("CartPole-v1") for _ in range(EPISODES)]
    observations = [world.reset(seed=1000 * seed + k)[0] for k, world in enumerate(worlds)]
    earned, going_on = np.zeros(EPISODES), set(range(EPISODES))
    while going_on:
        actions = learner.greedy(torch.from_numpy(np.stack(observations))).argmax(-1)
        for k in sorted(going_on):
            observations[k], reward, terminated, truncated, _ = worlds[k].step(int(actions[k]))
            earned[k] += reward
            if terminated or truncated:
                going_on.discard(k)
    return float(earned.mean())
