"""JPO on sampled replies: the ratio to the sampler, parts of the reward, and the rivals behind the same interface."""

import math
from functools import partial

import pytest
import torch
from chat_training import VowelJudge, fit, make_jpo_learner

from emodistill.data.chat_datasets import ContextBatch
from emodistill.data.preference_pairs import collate_pairs, preference_pairs
from emodistill.emotions.perceiver import load_perceiver
from emodistill.errors import UserError
from emodistill.judges.shown_emotion import ShownEmotion
from emodistill.learners.jpo import Part, reference
from emodistill.negotiation.offers import parse_offer
from emodistill.policy.token_batches import mean_by_utterance, sum_by_utterance


@pytest.fixture
def make_learner(tiny_model, sft_adapter):
    return partial(make_jpo_learner, tiny_model, sft_adapter)


class Length:
    """A part of the reward: short replies are good."""

    def scores(self, requests):
        return [-float(len(request.utterance)) for request in requests]


def rollout_of(learner, contexts, count=4):
    drawn = learner.queue.draw(learner.policy, ContextBatch(contexts), count, 0, learner.global_step)
    return learner.judged(drawn, reference(learner.policy, drawn.chats), 2)


def gradients(learner, loss):
    learner.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in learner.policy.parameters() if p.requires_grad])


@pytest.fixture
def moved(make_learner, contexts, sampler):
    """A learner whose policy is far from its reference."""
    learner = make_learner(VowelJudge(), sampler, learning_rate=5e-2, kl_coef=0.0, clip_range=0.02)
    fit(learner, [ContextBatch(contexts)], epochs=8)
    return learner


def test_a_good_reply_keeps_its_gradient_however_far_the_policy_has_moved(moved, contexts):
    """Anchored at the reference, the clip would take it away: here most ratios to the reference lie beyond it."""
    rollout = rollout_of(moved, contexts)
    logprobs, owner = moved.policy(rollout.chats)
    mean = mean_by_utterance(logprobs, owner, len(rollout.scores))
    ratio = (mean - mean_by_utterance(rollout.ref_logprobs, owner, len(rollout.scores))).exp()
    assert ((ratio - 1).abs() > moved.hparams["clip_range"]).float().mean() > 0.5
    expected = gradients(moved, -(mean * torch.tensor(rollout.advantages)).mean())
    found = gradients(moved, moved.objective(rollout)["surrogate"])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert found.abs().max() > 0


def test_parts_are_asked_of_the_same_replies_and_move_the_policy(make_learner, contexts, sampler):
    learner = make_learner(VowelJudge(), sampler, parts={"length": Part(1.0, Length())})
    learner.configure_model()
    rollout = rollout_of(learner, contexts)
    plain = make_learner(VowelJudge(), sampler)
    plain.configure_model()
    alone = rollout_of(plain, contexts)
    assert rollout.scores == alone.scores and rollout.advantages != alone.advantages
    metrics = learner.objective(rollout)
    assert metrics["reward_length"].item() == pytest.approx(dict(rollout.parts)["length"])
    assert "reward_length" not in plain.objective(alone)
    for weight in (0.0, math.inf, math.nan, "much"):
        with pytest.raises(UserError, match=f"weight {weight}"):
            Part(weight, Length())


def test_the_best_of_a_group_alone_is_learnt_by_its_likelihood(make_learner, contexts, sampler):
    learner = make_learner(VowelJudge(), sampler, learn_from="best", kl_coef=0.0)
    learner.configure_model()
    rollout = rollout_of(learner, contexts)
    logprobs, owner = learner.policy(rollout.chats)
    mean = mean_by_utterance(logprobs, owner, len(rollout.scores))
    best = [i for i, advantage in enumerate(rollout.advantages) if advantage is not None]
    for i in best:
        first = i - i % 4
        assert rollout.scores[i] == max(rollout.scores[first : first + 4])
    assert 0 < len(best) <= len(contexts)
    torch.testing.assert_close(
        gradients(learner, learner.objective(rollout)["loss"]), gradients(learner, -mean[best].mean())
    )
    with pytest.raises(UserError, match="learn_from=worst"):
        make_learner(VowelJudge(), sampler, learn_from="worst")


def test_pairs_say_the_same_offer_with_two_emotions(contexts, encoder):
    pairs = preference_pairs(contexts, encoder.chat_format, seed=(0,))
    assert [pair.context for pair in pairs] == contexts
    for pair in pairs:
        chosen, rejected = (encoder.chat_format.text(ids) for ids in (pair.chosen, pair.rejected))
        assert chosen != rejected
        for text in (chosen, rejected):
            assert parse_offer(text, pair.context.scenario.domain) == pair.context.offer
    shown = ShownEmotion(encoder.chat_format.vocabulary, load_perceiver("judge"))
    chosen, rejected = (
        sum(shown.scores([pair.context.request(encoder.chat_format.text(ids(pair))) for pair in pairs]))
        for ids in (lambda pair: pair.chosen, lambda pair: pair.rejected)
    )
    assert chosen > rejected + 0.5  # of four: it is the chosen line that shows what was asked for
    assert pairs == preference_pairs(contexts, encoder.chat_format, seed=(0,))
    assert pairs != preference_pairs(contexts, encoder.chat_format, seed=(1,))


def test_the_chosen_line_becomes_likelier_against_the_rejected_one(make_learner, contexts, encoder):
    batch = collate_pairs(preference_pairs(contexts, encoder.chat_format, seed=(0,)), pad_id=0)
    learner = make_learner(preference={"scale": 0.5, "nll_weight": 0.1})
    learner.configure_model()
    first = learner.preferred(batch)
    assert first["margin"].item() == 0.0 == first["kl"].item()  # the policy is its reference
    logprobs, owner = learner.policy(batch.chats)
    likelihood = mean_by_utterance(logprobs, owner, 2 * len(batch))[::2].mean().item()  # of the chosen lines alone
    assert first["loss"].item() == pytest.approx(math.log(2) - 0.1 * likelihood, rel=1e-5)
    before = sum_by_utterance(logprobs, owner, 2 * len(batch)).view(-1, 2).detach()
    _, rows = fit(learner, [batch], epochs=10)
    logprobs, owner = learner.policy(batch.chats)
    after = sum_by_utterance(logprobs, owner, 2 * len(batch)).view(-1, 2).detach()
    change = after - before
    assert (change[:, 0] - change[:, 1]).mean() > 0
    assert rows[-1]["train/preferred"] > 0.5 and rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_pairs_need_their_settings(make_learner, contexts, encoder):
    batch = collate_pairs(preference_pairs(contexts, encoder.chat_format, seed=(0,)), pad_id=0)
    with pytest.raises(UserError, match="utterances=pairs needs learner.preference"):
        fit(make_learner(), [batch])
