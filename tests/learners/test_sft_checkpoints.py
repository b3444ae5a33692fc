"""What supervised fine-tuning leaves behind: checkpoints to resume from exactly, and an adapter that speaks."""

from functools import partial

import pytest
import torch
from chat_training import (
    OPTIMIZER,
    adapter,
    batches,
    fit,
    make_sft_learner,
    policy_settings,
    same_weights,
    stop_and_resume,
)
from tiny_model import build_tiny_model

from emodistill.data.chats import collate_encoded
from emodistill.errors import UserError
from emodistill.learners.sft import SFTLearner
from emodistill.policy.expression_policy import ExpressionPolicy


@pytest.fixture
def make_learner(tiny_model):
    return partial(make_sft_learner, tiny_model)


def test_a_checkpoint_holds_the_adapter_and_its_optimizer_and_no_base(make_learner, chats, tmp_path):
    learner = make_learner()
    trainer, _ = fit(learner, batches(chats, 2))
    trainer.save_checkpoint(tmp_path / "sft.ckpt")
    saved = torch.load(tmp_path / "sft.ckpt", weights_only=True)
    assert saved["state_dict"] and all(".lora_" in name for name in saved["state_dict"])
    assert len(saved["optimizer_states"][0]["state"]) == len(saved["state_dict"])
    loaded = SFTLearner.load_from_checkpoint(tmp_path / "sft.ckpt", weights_only=True)
    assert same_weights(adapter(loaded), adapter(learner))


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_resumed_run_ends_with_the_same_weights(make_learner, chats, tmp_path, step):
    def make():
        return make_learner(dropout=False, warmup_steps=1, schedule="cosine")

    [batch] = batches(chats, 4)
    whole = make()
    fit(whole, [batch], epochs=5)
    resumed = stop_and_resume(make, batch, step, tmp_path / "last.ckpt")
    assert resumed.global_step == whole.global_step == 5
    assert same_weights(adapter(resumed), adapter(whole))


def test_a_checkpoint_of_another_base_or_vocabulary_is_refused_by_name(make_learner, chats, tmp_path):
    trainer, _ = fit(make_learner(), batches(chats, 2))
    trainer.save_checkpoint(tmp_path / "sft.ckpt")
    other = build_tiny_model(tmp_path / "other_model", seed=1)
    with pytest.raises(UserError, match="checkpoint was trained for base model .*tiny_model.*other_model"):
        fit(SFTLearner(policy_settings(other), OPTIMIZER), batches(chats, 2), ckpt_path=tmp_path / "sft.ckpt")
    foreign = SFTLearner(policy_settings(str(other), vocabulary="ekman7"), OPTIMIZER)
    with pytest.raises(UserError, match="checkpoint was trained for"):
        fit(foreign, batches(chats, 2), ckpt_path=tmp_path / "sft.ckpt")


def test_the_saved_adapter_speaks_as_the_trained_policy(make_learner, chats, tmp_path, tiny_model):
    learner = make_learner()
    fit(learner, batches(chats, 2))
    learner.policy.save_adapter(tmp_path / "adapter")
    again = ExpressionPolicy(**policy_settings(tiny_model, init_adapter=str(tmp_path / "adapter"))).eval()
    batch = collate_encoded(chats, 0)
    assert torch.equal(again(batch).logprobs, learner.policy.eval()(batch).logprobs)
