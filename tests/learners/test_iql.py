"""The IQL learner: what each head learns from, and what it must not."""

import copy
import math

import pytest
import torch
from iql_cases import HEADS, SETTINGS, STATS, Data, make, make_batch, quiet_trainer, step

from emodistill.learners.iql import IQLLearner, Transitions


@pytest.mark.parametrize("head", HEADS)
def test_each_loss_reaches_its_own_head_and_no_other(head):
    learner = make()
    learner.losses(make_batch())[head].backward()
    touched = {name.split(".")[0] for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert touched == {head}


def test_the_losses_are_the_definitions():
    """Equations 5, 6 and 7 written out once more, turn by turn, in plain Python numbers."""
    learner, batch = make(inverse_temperature=8.0, max_advantage_weight=1.5), make_batch()
    with torch.no_grad():
        learner.target_q.q1[-1].bias += 0.3  # the target differs from Q, as it does after any step
        q1, q2, v = learner.q.q1(batch.observation), learner.q.q2(batch.observation), learner.v(batch.observation)
        slow1, slow2 = learner.target_q.q1(batch.observation), learner.target_q.q2(batch.observation)
        next_v, logprobs = learner.v(batch.next_observation), learner.policy(batch.observation).log_softmax(-1)
    sums, capped = dict.fromkeys(HEADS, 0.0), 0
    for i, a in enumerate(batch.action.tolist()):
        goal = batch.reward[i] + 0.9 * (1 - batch.terminal[i]) * next_v[i, 0]
        u = (min(slow1[i, a], slow2[i, a]) - v[i, 0]).item()
        capped += math.exp(8.0 * u) > 1.5
        sums["q"] += ((goal - q1[i, a]) ** 2 + (goal - q2[i, a]) ** 2).item()
        sums["v"] += (0.7 if u > 0 else 0.3) * u * u
        sums["policy"] -= min(math.exp(8.0 * u), 1.5) * logprobs[i, a].item()
    assert 0 < capped < len(batch.action)
    losses = learner.losses(batch)
    for head in HEADS:
        assert losses[head].item() == pytest.approx(sums[head] / len(batch.action), rel=1e-5)


def test_one_adam_over_three_groups_is_three_adams_each_with_its_rate():
    joint, separate, batch = make(), make(), make_batch()
    optimizer = joint.configure_optimizers()
    rates = SETTINGS["learning_rates"]
    own = {head: torch.optim.Adam(getattr(separate, head).parameters(), lr=rates[head], fused=True) for head in HEADS}
    for _ in range(5):
        step(joint, optimizer, batch)
        losses = separate.losses(batch)
        for head in HEADS:
            own[head].zero_grad()
            losses[head].backward()
            own[head].step()
        separate.update_target()
    assert all(torch.equal(a, b) for a, b in zip(joint.parameters(), separate.parameters(), strict=True))
    assert {id(p) for g in optimizer.param_groups for p in g["params"]}.isdisjoint(map(id, joint.target_q.parameters()))


def test_each_head_is_clipped_by_its_own_norm():
    learner = make()
    losses = learner.losses(make_batch())
    (1e4 * losses["q"] + losses["v"] + 1e-6 * losses["policy"]).backward()
    small = [p.grad.clone() for p in learner.policy.parameters()]
    learner.configure_gradient_clipping(learner.configure_optimizers(), 1.0)
    norms = {h: torch.stack([p.grad.norm() for p in getattr(learner, h).parameters()]).norm().item() for h in HEADS}
    assert norms["q"] == pytest.approx(1.0, rel=1e-4)
    assert norms["v"] <= 1.0 + 1e-4
    assert all(torch.equal(p.grad, g) for p, g in zip(learner.policy.parameters(), small, strict=True))


@pytest.mark.parametrize("limit", [0.05, 1.0, 1e6])
def test_clipping_is_that_of_torch_to_the_bit(limit):
    ours, theirs, batch = make(), make(), make_batch()
    for learner in (ours, theirs):
        sum(learner.losses(batch).values()).backward()
    ours.configure_gradient_clipping(ours.configure_optimizers(), limit)
    for head in HEADS:
        torch.nn.utils.clip_grad_norm_(getattr(theirs, head).parameters(), limit)
        for mine, other in zip(getattr(ours, head).parameters(), getattr(theirs, head).parameters(), strict=True):
            assert torch.equal(mine.grad, other.grad)


def test_the_target_moves_by_its_share_of_the_way_and_is_not_trained():
    learner = make()
    with torch.no_grad():
        for parameter in learner.q.parameters():
            parameter.add_(1.0)
    before = copy.deepcopy(learner.target_q)
    learner.update_target()
    for now, was, online in zip(*(n.parameters() for n in (learner.target_q, before, learner.q)), strict=True):
        torch.testing.assert_close(now, 0.9 * was + 0.1 * online)
    assert not any(parameter.requires_grad for parameter in learner.target_q.parameters())


def test_the_target_moves_once_an_optimizer_step_also_under_accumulation():
    learner, moves = make(), []
    learner.update_target = lambda: (moves.append(learner.trainer.global_step), IQLLearner.update_target(learner))
    trainer = quiet_trainer(max_epochs=1, accumulate_grad_batches=2)
    trainer.fit(learner, Data(batches=6))
    assert len(moves) == trainer.global_step == 3


def test_ended_dialogues_do_not_bootstrap_and_others_do():
    learner, batch = make(), make_batch()
    elsewhere = batch.next_observation + 100.0
    for terminal, same in ((1.0, True), (0.0, False)):
        here = batch._replace(terminal=torch.full_like(batch.terminal, terminal))
        there = here._replace(next_observation=elsewhere)
        assert torch.equal(learner.losses(here)["q"], learner.losses(there)["q"]) is same
    boolean = batch._replace(terminal=batch.terminal.bool())
    assert torch.equal(learner.losses(boolean)["q"], learner.losses(batch)["q"])


def test_the_smaller_twin_decides_and_values_come_from_the_slow_one():
    learner, batch = make(), make_batch()
    with torch.no_grad():
        learner.target_q.q2[-1].bias -= 50.0
        expected = learner.target_q.q2(batch.observation).gather(1, batch.action[:, None]) - learner.v(
            batch.observation
        )
        torch.testing.assert_close(learner.advantages(batch.observation, batch.action), expected.squeeze(1))
        learner.q.q1[-1].bias -= 70.0
        torch.testing.assert_close(learner.q_values(batch.observation), learner.q.q1(batch.observation))


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_v_is_the_expectile_of_what_was_seen(expectile):
    """One state, two rewards of equal share: at 0.5 the mean of 0 and 1, at 0.9 nine tenths of the way up."""
    learner = make(expectile=expectile, hidden_dims=[], polyak=0.5, learning_rates=dict.fromkeys(HEADS, 0.05))
    action = torch.tensor([0, 1]).repeat(16)
    still = torch.zeros(32, 4)
    batch = Transitions(still, action, action.float(), still, torch.ones(32))
    optimizer = learner.configure_optimizers()
    for _ in range(400):
        step(learner, optimizer, batch)
    assert learner.v(still[:1]).item() == pytest.approx(expectile, abs=0.01)
    odds = learner(still[:1]).softmax(-1)[0]
    assert (odds[1] / odds[0]).item() == pytest.approx(math.exp(3.0), rel=0.1)  # equal shares, advantages one apart


def test_emotions_never_shown_are_never_chosen():
    learner = make(dataset_stats=STATS)
    with torch.no_grad():
        learner.policy[-1].bias[2] += 100.0
    observation = torch.randn(500, 4, generator=torch.Generator().manual_seed(2))
    assert torch.isneginf(learner(observation)[:, 2]).all()
    chosen = learner.greedy(observation)
    assert (chosen[:, 2] == 0).all() and (chosen.sum(-1) == 1).all() and (chosen.sum(0) > 0).sum() > 1
    assert torch.equal(chosen.argmax(-1), learner(observation).argmax(-1))
    learner.losses(make_batch())["policy"].backward()
    assert all(torch.isfinite(p.grad).all() for p in learner.policy.parameters())
    assert (learner.policy[-1].bias.grad[2] == 0) and (learner.policy[-1].bias.grad[[0, 1, 3, 4]] != 0).all()


def test_observations_are_standardised_and_rewards_scaled_inside():
    """With statistics, a raw batch gives the losses that the prepared batch gives without."""
    plain, learner = make(), make(dataset_stats={**STATS, "action_mask": [True] * 5})
    batch = make_batch()
    mean, std = torch.tensor(STATS["observation_mean"]), torch.tensor(STATS["observation_std"])
    raw = batch._replace(
        observation=batch.observation * std + mean,
        next_observation=batch.next_observation * std + mean,
        reward=batch.reward * 4.0,
    )
    for head, loss in learner.losses(raw).items():
        torch.testing.assert_close(loss, plain.losses(batch)[head])
    torch.testing.assert_close(learner(raw.observation), plain(batch.observation))
    torch.testing.assert_close(learner.q_values(raw.observation), plain.q_values(batch.observation))
    torch.testing.assert_close(
        learner.advantages(raw.observation, raw.action), plain.advantages(batch.observation, batch.action)
    )
