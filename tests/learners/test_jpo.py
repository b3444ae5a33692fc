"""The objective of Judge Policy Optimization on a tiny random Llama in real 4-bit, with judges of known verdicts."""

import math
from functools import partial

import pytest
import torch
from chat_training import Gradients, RoundJudge, VowelJudge, batch_of, fit, make_jpo_learner

from emodistill.data.chat_datasets import ContextBatch
from emodistill.errors import UserError
from emodistill.policy.token_batches import sum_by_utterance


@pytest.fixture
def make_learner(tiny_model, sft_adapter):
    return partial(make_jpo_learner, tiny_model, sft_adapter)


def utterance_logprobs(learner, batch):
    with torch.no_grad():
        logprobs, owner = learner.policy(batch.chats)
    return sum_by_utterance(logprobs, owner, batch.chats.utterances)


def reference_logprobs(learner, batch):
    with learner.policy.reference():
        return learner.policy(batch.chats).logprobs


def test_at_the_first_step_every_ratio_is_exactly_one_and_the_kl_exactly_zero(make_learner, items, contexts, sampler):
    """With LoRA dropout on, or references computed on other tensors, this would hold only roughly."""
    corpus = fit(make_learner(RoundJudge()), [batch_of(items[:2]), batch_of(items[2:])])[1]
    sampled = fit(make_learner(VowelJudge(), sampler), [ContextBatch(contexts)])[1]
    for row in (corpus[0], sampled[0]):
        assert row["train/ratio_mean"] == row["train/ratio_min"] == row["train/ratio_max"] == 1.0
        assert row["train/kl"] == 0.0
    assert corpus[0]["train/clip_fraction"] == 0.0 and "train/clip_fraction" not in sampled[0]
    assert corpus[1]["train/ratio_max"] != 1.0  # the second step is another policy


def test_dropout_is_off_in_the_policy_and_still_in_the_adapter_it_came_from(make_learner):
    learner = make_learner(RoundJudge())
    learner.configure_model()
    assert not [m for m in learner.policy.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]


def test_good_utterances_become_likelier_and_bad_ones_less_likely(make_learner, items):
    learner, batch = make_learner(RoundJudge(), clip_range=10.0, kl_coef=0.0), batch_of(items)
    learner.configure_model()
    before = utterance_logprobs(learner, batch)
    fit(learner, [batch], epochs=12)
    change = utterance_logprobs(learner, batch) - before
    good = torch.tensor([place % 2 == 1 for item in items for place in item.places])
    assert change[good].mean() > 0 > change[~good].mean()  # weights are shared: a single one may move either way


def test_sampled_replies_that_the_judge_prefers_become_more_frequent(make_learner, contexts, sampler):
    """Beside a policy that stays as it was: each step of both draws with the same noise."""
    ends = []
    for learning_rate, learn_from in ((0.0, "all"), (3e-2, "all"), (3e-2, "best")):  # best: distillation of the best
        settings = {"samples": 16, "clip_range": 10.0, "kl_coef": 0.0, "learning_rate": learning_rate}
        learner = make_learner(VowelJudge(), sampler, **settings, learn_from=learn_from)
        _, rows = fit(learner, [ContextBatch(contexts)], epochs=30)
        ends.append(sum(row["train/reward"] for row in rows[-20:]) / 20)
    assert min(ends[1:]) > ends[0] + 0.1


def test_clipping_stops_what_has_moved_far_enough(make_learner, items):
    batch = batch_of(items)
    drift = {}
    for clip_range in (0.01, 10.0):
        learner = make_learner(RoundJudge(), clip_range=clip_range, kl_coef=0.0, learning_rate=4e-3)
        _, rows = fit(learner, [batch], epochs=10)
        drift[clip_range] = rows[-1]["train/ratio_max"]
    assert rows[0]["train/clip_fraction"] == 0.0
    assert drift[0.01] < 1.1 < drift[10.0]


def test_the_reference_never_moves(make_learner, items):
    learner, batch = make_learner(RoundJudge()), batch_of(items)
    learner.configure_model()
    before, mode = reference_logprobs(learner, batch), learner.policy.training
    fit(learner, [batch], epochs=5)
    assert mode and learner.policy.training  # the reference pass hands the policy back as it found it
    assert torch.equal(reference_logprobs(learner, batch), before)
    assert not torch.equal(learner.policy(batch.chats).logprobs, before)


def test_only_the_policy_adapter_moves(make_learner, items):
    learner = make_learner(RoundJudge())
    learner.configure_model()
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    fit(learner, [batch_of(items)], epochs=2)
    moved = {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".policy." in name} and moved


def test_without_advantage_the_kl_term_leads_back_to_the_reference(make_learner, items):
    learner, batch = make_learner(RoundJudge(), clip_range=10.0), batch_of(items)
    fit(learner, [batch], epochs=10)

    def distance():
        return (utterance_logprobs(learner, batch) - start).abs().mean().item()

    owner = learner.policy(batch.chats).owner
    start = sum_by_utterance(reference_logprobs(learner, batch), owner, batch.chats.utterances)
    away = distance()
    flat = make_learner(RoundJudge(flat=True), kl_coef=1.0)
    flat.configure_model()
    flat.load_state_dict(learner.state_dict())
    _, rows = fit(flat, [batch], epochs=20)
    learner.policy = flat.policy
    assert distance() < away / 2
    assert rows[0]["train/degenerate_groups"] == 2 and rows[0]["train/surrogate"] == 0.0


def test_the_best_of_each_group_needs_sampled_replies(make_learner, items):
    with pytest.raises(UserError, match="learn_from=best needs sampled replies"):
        fit(make_learner(RoundJudge(), learn_from="best"), [batch_of(items)])


def test_the_loss_is_the_formula_of_the_method(make_learner, items):
    """Recomputed from the definitions, utterance by utterance, at weights that differ from the reference."""
    learner, batch = make_learner(RoundJudge(), kl_coef=0.3, clip_range=0.05), batch_of(items)
    fit(learner, [batch], epochs=3)
    logprobs, owner = learner.policy(batch.chats)
    reference = reference_logprobs(learner, batch)
    # two scenarios of two episodes with two turns: scores 2 9 2 9 each, so mean 5.5 and std 3.5
    advantages = [1.0 if place % 2 else -1.0 for item in items for place in item.places]
    terms = []
    for i, advantage in enumerate(advantages):
        mine = owner == i
        ratio = math.exp((logprobs[mine].sum() - reference[mine].sum()).item() / int(mine.sum()))
        terms.append(min(ratio * advantage, min(max(ratio, 0.95), 1.05) * advantage))
    delta = (reference - logprobs).detach().double()
    expected = -sum(terms) / len(terms) + 0.3 * (delta.exp() - delta - 1).mean().item()
    metrics = learner.objective(learner.from_corpus(batch))
    assert metrics["loss"].item() == pytest.approx(expected, abs=1e-4)
    assert metrics["clip_fraction"] > 0


@pytest.mark.parametrize("accumulated", [4, 8], ids=["whole", "shorter"])
def test_four_accumulated_batches_of_one_are_one_batch_of_four(make_learner, items, accumulated):
    """Of equal length, for means of means; the group is the scenario in both cases. An epoch may end too early."""
    found = {}
    length = items[0].chat.utterance.count(0) + items[0].chat.utterance.count(1)
    same = [item for item in items for _ in range(4) if sum(o >= 0 for o in item.chat.utterance) == length][:4]
    for size, accumulate in ((4, 1), (1, accumulated)):
        gradients = Gradients()
        batches = [batch_of(same[i : i + size]) for i in range(0, 4, size)]
        fit(make_learner(RoundJudge()), batches, accumulate_grad_batches=accumulate, callbacks=[gradients])
        found[size] = gradients.latest
    for name, gradient in found[4].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("key", "value"), [("clip_range", 0.0), ("kl_coef", -0.04), ("negative_weight", -1.0)])
def test_settings_that_mean_nothing_are_refused(make_learner, key, value):
    with pytest.raises(UserError, match=rf"learner\.{key}={value}: it must be "):
        make_learner(**{key: value})


def test_a_loss_that_is_no_number_ends_training(make_learner, items):
    batches = [batch_of(items[:2]), batch_of(items[2:])] * 2
    with pytest.raises(UserError, match=r"the loss is nan at step [12]; lower learner\.optimizer\.learning_rate"):
        fit(make_learner(RoundJudge(), learning_rate=1e30), batches)
