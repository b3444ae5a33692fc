"""What a run of Judge Policy Optimization keeps and shows: checkpoints, exact resumes, samples and validation."""

from functools import partial

import pytest
import torch
from chat_training import (
    JPO,
    OPTIMIZER,
    RoundJudge,
    VowelJudge,
    adapter,
    batch_of,
    fit,
    make_episodes,
    make_jpo_learner,
    policy_settings,
    same_weights,
    stop_and_resume,
)

from emodistill.data.chat_datasets import ContextBatch, judged_chats
from emodistill.errors import UserError
from emodistill.learners.jpo import JPOLearner
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.generation import RolloutSampler


@pytest.fixture
def make_learner(tiny_model, sft_adapter):
    return partial(make_jpo_learner, tiny_model, sft_adapter)


def test_a_checkpoint_holds_the_adapter_and_plain_values_only(make_learner, items, tmp_path):
    learner = make_learner(RoundJudge())
    trainer, _ = fit(learner, [batch_of(items)])
    trainer.save_checkpoint(tmp_path / "jpo.ckpt")
    saved = torch.load(tmp_path / "jpo.ckpt", weights_only=True)
    assert saved["state_dict"] and all(".lora_" in n and ".policy." in n for n in saved["state_dict"])
    assert {"judge", "sampler"}.isdisjoint(saved["hyper_parameters"])
    assert set(saved["jpo"]["cache"]["ref_logprobs"]) == {item.key for item in items}
    loaded = JPOLearner.load_from_checkpoint(tmp_path / "jpo.ckpt", weights_only=True)
    assert same_weights(adapter(loaded), adapter(learner))


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("source", ["corpus", "sampled"])
def test_a_resumed_run_ends_with_the_same_weights(make_learner, items, contexts, encoder, tmp_path, source, step):
    batch = batch_of(items) if source == "corpus" else ContextBatch(contexts)

    def make():
        sampler = RolloutSampler(encoder.chat_format, "float32", 1.0, None, 8, 16)
        return make_learner(RoundJudge() if source == "corpus" else VowelJudge(), sampler)

    whole = make()
    fit(whole, [batch], epochs=5)
    resumed = stop_and_resume(make, batch, step, tmp_path / "last.ckpt")
    assert resumed.global_step == whole.global_step == 5
    assert same_weights(adapter(resumed), adapter(whole))


def test_reference_logprobs_survive_a_resume_bit_by_bit(make_learner, items, tmp_path):
    """In the checkpointed run they were computed in a batch of four; alone they would differ in the last bits."""
    learner = make_learner(RoundJudge())
    trainer, _ = fit(learner, [batch_of(items)])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = make_learner(RoundJudge())
    fit(again, [batch_of(items)], ckpt_path=tmp_path / "last.ckpt")
    known = learner.cache.reference(learner.policy, batch_of(items[1:2]))
    assert torch.equal(again.cache.reference(again.policy, batch_of(items[1:2])), known)
    assert again.cache.group_scores == learner.cache.group_scores


def test_every_step_has_its_own_seed_and_every_validation_the_same(make_learner):
    rollouts = make_learner(RoundJudge()).queue
    drawn = [rollouts.training_seed(0, step) for step in range(5)]
    assert drawn == [rollouts.training_seed(0, step) for step in range(5)]
    validated = [rollouts.validation_seed(0, batch) for batch in range(4)]
    assert len({*validated, *drawn}) == 9  # and no validation draws what training does
    assert rollouts.training_seed(1, 2) not in drawn


def test_samples_come_from_the_policy_as_it_is(make_learner, contexts, sampler, encoder):
    learner = make_learner(VowelJudge(), sampler)
    fit(learner, [ContextBatch(contexts)], epochs=3)
    learner.queue.draw(learner.policy, ContextBatch(contexts), 2, 7, learner.global_step)
    fresh = RolloutSampler(encoder.chat_format, "float32", 1.0, None, 8, 16)
    fresh.refresh(learner.policy)
    ids = [context.input_ids for context in contexts]
    assert sampler.sample(ids, 2, seed=7) == fresh.sample(ids, 2, seed=7)


def test_people_can_read_what_was_said_at_the_latest_validation(make_learner, contexts, sampler):
    learner = make_learner(VowelJudge(), sampler)
    fit(learner, [ContextBatch(contexts)], val=[ContextBatch(contexts)])
    assert [context for context, _, _ in learner.replies] == contexts
    for _, text, score in learner.replies:
        assert score == 1.0 + min(9.0, sum(letter in "aeiou" for letter in text))
    fresh = RolloutSampler(sampler.chat_format, "float32", 1.0, None, 8, 16)
    fresh.refresh(learner.policy)
    drawn = fresh.sample([c.input_ids for c in contexts], 1, learner.queue.validation_seed(0, 0))
    assert [fresh.text(reply) for (reply,) in drawn] == [text for _, text, _ in learner.replies]


def test_validation_shows_reward_of_contexts_and_surrogate_of_corpus_turns(make_learner, items, contexts, sampler):
    learner = make_learner(VowelJudge(), sampler, learning_rate=0.0)
    trainer, _ = fit(learner, [ContextBatch(contexts)], epochs=2, val=[ContextBatch(contexts)])
    shown = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    scores = [score for _, _, score in learner.replies]
    assert shown["val/reward"] == pytest.approx(sum(scores) / len(scores))
    assert "val/surrogate" not in shown and shown["val/reward_missing"] == 0.0
    learner = make_learner(RoundJudge())
    trainer, _ = fit(learner, [batch_of(items)], epochs=8, val=[batch_of(items)])
    assert trainer.callback_metrics["val/surrogate"] < 0 < trainer.callback_metrics["val/kl"]
    assert "val/reward" not in trainer.callback_metrics


def test_validation_on_corpus_turns_does_not_depend_on_the_batches(make_learner, encoder):
    chats = judged_chats(make_episodes(4), [[True, False], [True, True], [True, True], [True, True]], encoder)
    found = []
    for batches in ([batch_of(chats)], [batch_of(chats[:1]), batch_of(chats[1:])]):
        trainer, _ = fit(make_learner(RoundJudge()), [batch_of(chats)], epochs=4, val=batches)
        found.append([float(trainer.callback_metrics[f"val/{name}"]) for name in ("surrogate", "kl")])
    assert found[0] == pytest.approx(found[1], rel=1e-4) and min(map(abs, found[0])) > 1e-6


def test_foreign_checkpoints_and_settings_are_refused_by_name(make_learner, items, contexts, tmp_path, tiny_model):
    trainer, _ = fit(make_learner(RoundJudge()), [batch_of(items)])
    trainer.save_checkpoint(tmp_path / "jpo.ckpt")
    other = tmp_path / "other"
    ExpressionPolicy(**policy_settings(tiny_model)).save_adapter(other)
    foreign = JPOLearner(policy_settings(tiny_model, init_adapter=str(other)), OPTIMIZER, **JPO, judge=RoundJudge())
    with pytest.raises(UserError, match=f"another adapter than {other}"):
        fit(foreign, [batch_of(items)], ckpt_path=tmp_path / "jpo.ckpt")
    for samples in (1, 4.5, "four", None):
        with pytest.raises(UserError, match=f"^learner.samples={samples}: "):
            make_learner(RoundJudge(), samples=samples)
    with pytest.raises(UserError, match="^learner.judging.min_group=None: "):
        make_learner(RoundJudge(), judging=JPO["judging"] | {"min_group": None})
    with pytest.raises(UserError, match="needs a judge and a sampler"):
        fit(make_learner(RoundJudge()), [ContextBatch(contexts)])
