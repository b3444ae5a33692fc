"""IQL against exact answers: eight small decision processes whose Q, V and policy are known to the last digit.

Observations are one-hot and heads linear, so a head is a table and nothing stands between the losses and their fixed
point. Actions that the behaviour never takes carry a bait reward: a learner that looks at them is far off at once.
"""

import json

import numpy as np
import pytest
import torch

from emodistill.learners.iql import IQLLearner, Transitions

CELLS = [(0.5, 1.0), (0.7, 3.0), (0.9, 1.0), (0.99, 3.0)]  # beta is the policy's alone, and Q and V know nothing of it
DRAWS, BATCH, STEPS = 8192, 2048, 2000


@pytest.fixture(scope="module")
def processes(shared_data):
    return json.loads((shared_data / "iql" / "tabular_fixed_points.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("expectile", "beta"), CELLS)
def test_q_v_and_policy_reach_the_exact_fixed_point(processes, expectile, beta):
    """Processes of equal settings are learned side by side: block one-hot observations, so no weight is shared."""
    cell = [process for process in processes if (process["tau"], process["beta"]) == (expectile, beta)]
    assert len(cell) == 2
    learner = fit(cell, expectile, beta)
    width = sum(len(process["V"]) for process in cell)
    with torch.no_grad():
        q = learner.q_values(torch.eye(width)).numpy()
        v = learner.v(torch.eye(width)).squeeze(-1).numpy()
        policy = learner(torch.eye(width)).softmax(-1).numpy()
    start = 0
    for process in cell:
        states = slice(start, start + len(process["V"]))
        start = states.stop
        live, supported = ~np.array(process["term"]), np.array(process["mu"]) > 0
        supported &= live[:, None]
        assert np.abs(q[states] - process["Q"])[supported].max() < 0.05
        assert np.abs(v[states] - process["V"])[live].max() < 0.05
        assert 0.5 * np.abs(policy[states] - process["pi"])[live].sum(1).max() < 0.05


def fit(cell, expectile, beta):
    torch.manual_seed(0)
    width, actions = sum(len(process["V"]) for process in cell), len(cell[0]["mu"][0])
    learner = IQLLearner(
        observation_dim=width,
        num_emotions=actions,
        hidden_dims=[],
        discount=cell[0]["gamma"],
        expectile=expectile,
        inverse_temperature=beta,
        max_advantage_weight=100.0,
        polyak=0.2,
        learning_rates={"q": 0.1, "v": 0.1, "policy": 0.1},
    )
    table = join([draw(process) for process in cell])
    optimizer = learner.configure_optimizers()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e-3 ** (step / STEPS))
    order = np.random.default_rng(1)
    rows = np.concatenate([order.permutation(len(table.action)) for _ in range(1 + STEPS * BATCH // len(table.action))])
    for index in torch.from_numpy(rows[: STEPS * BATCH]).split(BATCH):
        optimizer.zero_grad()
        sum(learner.losses(Transitions(*(column[index] for column in table))).values()).backward()
        optimizer.step()
        learner.update_target()
        schedule.step()
    return learner


def draw(process):
    """Transitions from every live state: each action as often as the behaviour takes it, next states at random.

    The uniform numbers behind the next states are stratified (one in each of n equal intervals), which leaves every
    draw's distribution as it is and takes most of the sampling noise out of the table.
    """
    rng = np.random.default_rng(0)
    probability, reward, terminal = (np.array(process[key]) for key in ("P", "r", "term"))
    rows = []
    for state in np.flatnonzero(~terminal):
        for action, share in enumerate(process["mu"][state]):
            count = round(share * DRAWS)
            uniform = (np.arange(count) + rng.random(count)) / max(count, 1)
            following = np.searchsorted(probability[state, action].cumsum(), uniform).clip(max=len(terminal) - 1)
            rows += [(state, action, reward[state, action], after, terminal[after]) for after in following]
    state, action, earned, after, ended = (np.array(column) for column in zip(*rows, strict=True))
    one_hot = np.eye(len(terminal), dtype=np.float32)
    columns = one_hot[state], action, earned.astype(np.float32), one_hot[after], ended.astype(np.float32)
    return Transitions(*(torch.from_numpy(column) for column in columns))


def join(tables):
    """One table of several, each with its own block of the observation."""
    width = sum(table.observation.shape[1] for table in tables)
    starts = np.cumsum([0] + [table.observation.shape[1] for table in tables])

    def wide(observation, start):
        return torch.nn.functional.pad(observation, (int(start), width - int(start) - observation.shape[1]))

    moved = [
        t._replace(observation=wide(t.observation, s), next_observation=wide(t.next_observation, s))
        for t, s in zip(tables, starts, strict=False)
    ]
    return Transitions(*(torch.cat(columns) for columns in zip(*moved, strict=True)))
