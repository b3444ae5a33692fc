"""An IQL run: what it writes, when, and what it refuses."""

import math

import pytest
import torch
from iql_cases import STATS, Data, make, make_batch, quiet_trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emodistill.errors import UserError
from emodistill.learners.ope import FittedQ, fitted_q_value


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    learner = make()
    logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
    trainer = quiet_trainer(max_epochs=2, log_every_n_steps=5, logger=logger, gradient_clip_val=1.0)
    trainer.fit(learner, Data())
    logger.finalize("success")
    curves = EventAccumulator(str(folder / "tensorboard")).Reload()
    return learner, trainer, curves


def test_the_curves_one_looks_for_are_there_every_n_steps(run):
    _, _, curves = run
    written = set(curves.Tags()["scalars"])
    for name in ("q", "v", "advantage"):
        assert {f"train/{name}_{statistic}" for statistic in ("mean", "std", "min", "max")} <= written
    assert {f"train/{head}_loss" for head in ("q", "v", "policy")} <= written
    assert {"train/weight_clip_share", "train/policy_entropy", "train/learning_rate_policy"} <= written
    assert {"val/fqe_value", "val/pdwis_effective_size", "val/behaviour_value", "val/policy_nll"} <= written
    assert [event.step for event in curves.Scalars("train/q_loss")] == [4, 9, 14, 19]


def test_metrics_are_those_of_the_learner(run):
    learner, trainer, _ = run
    metrics = trainer.callback_metrics
    batch = make_batch(30)
    policy = learner(batch.observation).softmax(-1)
    seen = torch.tensor(STATS["action_mask"])
    assert 0 < metrics["train/policy_entropy"] < math.log(4) + 1e-6
    taken = policy[torch.arange(30), batch.action]
    assert metrics["val/policy_nll"].item() == pytest.approx(-taken.log().mean().item(), rel=1e-5)
    assert metrics["train/learning_rate_v"].item() == pytest.approx(2e-3)
    shares = learner.emotion_shares
    assert set(shares) == {"corpus", "policy", "greedy"}
    for share in shares.values():
        assert share.sum().item() == pytest.approx(1.0, abs=1e-5)
        assert (share[~seen] == 0).all()
    torch.testing.assert_close(shares["corpus"], batch.action.bincount(minlength=5) / 30)
    torch.testing.assert_close(shares["policy"], policy.mean(0))


@pytest.mark.parametrize("updates", [3, 40])
def test_the_value_is_fitted_for_so_many_updates(updates):
    learner, data = make(fqe_updates=updates), Data()
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(learner, data)
    episodes = next(iter(data.val_dataloader()))
    rows = episodes.transitions
    seen = (rows.observation, rows.next_observation)
    with torch.no_grad():
        policies = [learner(observed).softmax(-1) for observed in seen]
    observation, following = (learner.stats.standardise(observed) for observed in seen)
    standard = episodes._replace(transitions=rows._replace(observation=observation, next_observation=following))
    expected = fitted_q_value(standard, *policies, 0.9, FittedQ(iterations=updates))
    assert trainer.callback_metrics["val/fqe_value"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("cap", "share"), [(1e-6, 1.0), (1e6, 0.0)])
def test_the_share_of_capped_weights_is_told(cap, share):
    trainer = quiet_trainer(max_steps=1, log_every_n_steps=1, limit_val_batches=0)
    trainer.fit(make(max_advantage_weight=cap), Data())
    assert trainer.callback_metrics["train/weight_clip_share"].item() == share


def test_ten_episodes_do_not_make_a_value_to_trust(run):
    """Thirty turns are ten episodes: too few by any weights, so the value is named unreliable."""
    _, trainer, _ = run
    assert trainer.callback_metrics["val/pdwis_effective_size"] <= 10
    assert (
        "val/pdwis_value_unreliable" in trainer.callback_metrics and "val/pdwis_value" not in trainer.callback_metrics
    )


def test_a_training_run_moves_every_weight_of_every_head():
    learner, before = make(), {name: tensor.clone() for name, tensor in make().named_parameters()}
    quiet_trainer(max_epochs=1).fit(learner, Data())
    moved = {name for name, tensor in learner.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == set(before)  # the target's too, by Polyak averaging


def test_validation_does_not_touch_the_learner_or_the_global_generator():
    learner, trainer = make(dataset_stats=STATS), quiet_trainer()
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = trainer.validate(learner, Data(), verbose=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.validate(learner, Data(), verbose=False) == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())


def test_a_run_that_has_lost_its_numbers_stops_with_the_way_out():
    data = Data()
    data.batches = [batch._replace(reward=batch.reward * math.nan) for batch in data.batches]
    with pytest.raises(UserError, match=r"q loss is nan at step 1.*learning_rates\.q"):
        quiet_trainer(max_steps=4, log_every_n_steps=2).fit(make(), data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observation_dim", 0),
        ("num_emotions", 2.5),
        ("hidden_dims", [64, 0]),
        ("hidden_dims", 64),
        ("discount", 1.01),
        ("discount", math.nan),
        ("expectile", 1.0),
        ("expectile", 0),
        ("inverse_temperature", -1.0),
        ("max_advantage_weight", 0.0),
        ("polyak", 0.0),
        ("learning_rates", {"q": 1e-3, "v": 1e-3}),
        ("learning_rates", {"q": 1e-3, "v": 1e-3, "policy": -1e-3}),
        ("learning_rates", 1e-3),
    ],
)
def test_a_setting_without_meaning_is_named(key, value):
    with pytest.raises(UserError, match=rf"learner\.{key}=.*must be"):
        make(**{key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_scale": 0.0}, "reward_scale"),
        ({"reward_scale": math.nan}, "reward_scale"),
        ({"observation_std": [1.0, 0.0, 1.0, 1.0]}, "observation_std"),
        ({"observation_mean": [0.0, math.inf, 0.0, 0.0]}, "observation_mean"),
        ({"observation_mean": [0.0]}, "observation_dim"),
        ({"action_mask": [False] * 5}, "action_mask"),
        ({"action_mask": [True] * 28}, "num_emotions"),
        ({"labels": ["joy"]}, "'five' has 1 labels"),
    ],
)
def test_statistics_that_cannot_be_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        make(dataset_stats={**STATS, **changes})


@pytest.mark.parametrize("key", ["action_mask", "fingerprint"])
def test_statistics_that_are_missing_are_named(key):
    with pytest.raises(UserError, match=f"lack '{key}'"):
        make(dataset_stats={name: value for name, value in STATS.items() if name != key})
