"""What Judge Policy Optimization makes of scores: compared within their scenario, asked for once, never made up."""

import math
from functools import partial

import pytest
import torch
from chat_training import RoundJudge, adapter, batch_of, fit, make_episodes, make_jpo_learner, same_weights

from emodistill.data.chat_datasets import ContextBatch, judged_chats


@pytest.fixture
def make_learner(tiny_model, sft_adapter):
    return partial(make_jpo_learner, tiny_model, sft_adapter)


def test_scores_are_compared_within_the_scenario_and_not_within_the_batch(make_learner, items):
    """A batch of one episode holds half of its scenario's turns; the other half still counts."""

    class ByEpisode(RoundJudge):
        def score(self, request):
            return 9.0 if "want 20" in request.utterance or "want 21" in request.utterance else 3.0

    judge = ByEpisode()
    learner = make_learner(judge)
    learner.configure_model()
    rollout = learner.from_corpus(batch_of(items[:1]))
    assert judge.asked == [request.utterance for request in items[0].group.requests] and len(judge.asked) == 4
    assert rollout.scores == [9.0, 9.0]
    assert rollout.advantages == [1.0, 1.0]  # scores 9 9 3 3: mean 6, std 3


def test_a_scenario_is_judged_once(make_learner, items):
    judge = RoundJudge()
    fit(make_learner(judge), [batch_of(items), batch_of(items[:1])], epochs=3)
    assert len(judge.asked) == 8


def test_a_missing_score_drops_out_and_never_becomes_a_middling_one(make_learner, items):
    silent = items[0].group.requests[0].utterance
    judged, partly = make_learner(RoundJudge()), make_learner(RoundJudge(silent_on=[silent]))
    for learner in (judged, partly):
        learner.configure_model()
    rollout = partly.from_corpus(batch_of(items))
    assert rollout.scores[0] is None and rollout.advantages[0] is None
    assert None not in rollout.advantages[1:]
    # scores 9 2 9 are left: mean 20/3, std 7 * sqrt(2) / 3
    assert rollout.advantages[1] == pytest.approx((9 - 20 / 3) / (7 * math.sqrt(2) / 3))
    assert partly.objective(rollout)["reward_missing"].item() == pytest.approx(1 / 8)

    rows = [fit(learner, [batch_of(items[:1])], epochs=3)[1] for learner in (judged, partly)]
    assert rows[1][0]["train/reward"] == 9.0 and rows[0][0]["train/reward"] == 5.5


def test_an_utterance_without_a_score_teaches_nothing_at_all(make_learner, items):
    """Neither surrogate nor KL: the gradient is as if the chat held the other utterance alone."""
    silent = items[0].group.requests[0].utterance
    learner = make_learner(RoundJudge(silent_on=[silent]), learning_rate=1e-2)
    fit(learner, [batch_of(items[1:])], epochs=2)
    rollout = learner.from_corpus(batch_of(items[:1]))
    learner.zero_grad()
    learner.objective(rollout)["loss"].backward()
    whole = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    utterance, scored = rollout.chats.utterance, rollout.chats.utterance >= 0
    alone = rollout._replace(
        chats=rollout.chats._replace(utterance=torch.where(utterance == 1, 0, -1)),
        ref_logprobs=rollout.ref_logprobs[utterance[scored] == 1],
        scores=rollout.scores[1:],
        advantages=rollout.advantages[1:],
    )
    learner.zero_grad()
    learner.objective(alone)["loss"].backward()
    for name, gradient in whole.items():
        torch.testing.assert_close(learner.get_parameter(name).grad, gradient, atol=1e-6, rtol=1e-4)


def test_a_batch_without_any_score_changes_nothing(make_learner, items):
    learner = make_learner(RoundJudge(silent_on=[r.utterance for item in items for r in item.group.requests]))
    learner.configure_model()
    before = adapter(learner)
    _, rows = fit(learner, [batch_of(items)])
    assert same_weights(adapter(learner), before)
    assert rows[0]["train/reward_missing"] == 1.0 and "train/reward" not in rows[0]


def test_a_negative_weight_of_zero_learns_from_good_utterances_only(make_learner, items):
    learner = make_learner(RoundJudge(), negative_weight=0.0)
    learner.configure_model()
    assert learner.from_corpus(batch_of(items)).advantages == [0.0, 1.0] * 4


def test_without_a_judge_the_values_that_came_with_the_turns_count(make_learner, encoder):
    values = [[1.0, 3.0], [0.0, None], [1.0, 3.0], [4.0, 2.0]]
    items = judged_chats(make_episodes(4), [[True, True]] * 4, encoder, values)
    learner = make_learner(None)
    learner.configure_model()
    assert learner.from_corpus(batch_of(items[:1])).advantages == [-1.0, 1.0]
    assert learner.from_corpus(batch_of(items[1:2])).scores == [0.0, None]


def test_a_judge_that_is_silent_at_validation_leaves_a_reward_that_is_not_a_number(make_learner, contexts, sampler):
    """Checkpoints by `val/reward` need it every time; not a number is never the best."""

    class Silent(RoundJudge):
        def score(self, request):
            return None

    trainer, _ = fit(make_learner(Silent(), sampler), [ContextBatch(contexts)], val=[ContextBatch(contexts)])
    assert math.isnan(trainer.callback_metrics["val/reward"])
    assert trainer.callback_metrics["val/reward_missing"] == 1.0
