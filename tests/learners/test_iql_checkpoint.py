"""The checkpoint of an IQL run: all that playing needs, and no other vocabulary."""

import pytest
import torch
from iql_cases import STATS, Data, make, make_batch, quiet_trainer

from emodistill.errors import UserError
from emodistill.learners.iql import IQLLearner


def test_a_checkpoint_is_enough_to_play_with(tmp_path):
    learner, trainer = make(), quiet_trainer(max_epochs=1, gradient_clip_val=1.0)
    trainer.fit(learner, Data())
    trainer.save_checkpoint(tmp_path / "iql.ckpt")
    loaded = IQLLearner.load_from_checkpoint(tmp_path / "iql.ckpt", map_location="cpu", weights_only=True)
    assert loaded.hparams["dataset_stats"] == STATS
    assert loaded.stats.reward_scale == 4.0 and loaded.stats.action_mask.tolist() == STATS["action_mask"]
    batch = make_batch(seed=9)
    assert torch.equal(loaded(batch.observation), learner(batch.observation))
    assert torch.equal(loaded.q_values(batch.observation), learner.q_values(batch.observation))
    for head, loss in loaded.losses(batch).items():
        assert torch.equal(loss, learner.losses(batch)[head])


def test_another_vocabulary_of_the_same_size_is_refused(tmp_path):
    learner, trainer = make(), quiet_trainer(max_epochs=1)
    trainer.fit(learner, Data())
    trainer.save_checkpoint(tmp_path / "iql.ckpt")
    other = Data(vocabulary="tactics", fingerprint="7a")
    with pytest.raises(UserError, match="'five'.*'tactics'"):
        quiet_trainer(max_epochs=2).fit(make(), other, ckpt_path=tmp_path / "iql.ckpt", weights_only=True)
    loaded = IQLLearner.load_from_checkpoint(tmp_path / "iql.ckpt", map_location="cpu", weights_only=True)
    with pytest.raises(UserError, match="'five'.*'tactics'"):
        quiet_trainer(max_epochs=1).fit(loaded, other)
