"""Judge Policy Optimization on a tiny random Llama in real 4-bit, with judges whose verdicts are known."""

import math

import pytest
import torch
from chat_training import (
    LORA,
    OPTIMIZER,
    Gradients,
    adapter,
    fit,
    make_encoder,
    make_episodes,
    policy_settings,
    same_weights,
    stop_and_resume,
)
from tiny_model import build_tiny_model

from emodistill.data.chats import encode_contexts
from emodistill.data.judged_chats import collate_contexts, collate_judged, judged_chats
from emodistill.errors import UserError
from emodistill.learners.jpo import JPOLearner
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.rollout_sampler import RolloutSampler
from emodistill.policy.tokens import sum_by_utterance

JPO = {"clip_range": 0.2, "kl_coef": 0.04, "negative_weight": 1.0, "samples": 4, "seed": 0}


class RoundJudge:
    """Likes second rounds, dislikes first ones; None for utterances it was told to leave out. Counts its work."""

    def __init__(self, silent_on=(), flat=False):
        self.silent_on, self.flat, self.asked = silent_on, flat, []

    def scores(self, requests):
        self.asked += [request.utterance for request in requests]
        return [None if r.utterance in self.silent_on else self.score(r) for r in requests]

    def score(self, request):
        return 5.0 if self.flat else (9.0 if request.history else 2.0)


class VowelJudge(RoundJudge):
    """The more vowels, the better: sampled replies differ in them by chance."""

    def score(self, request):
        return 1.0 + min(9.0, sum(letter in "aeiou" for letter in request.utterance))


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return make_encoder(tiny_model)


@pytest.fixture(scope="module")
def sft_adapter(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft") / "adapter"
    torch.manual_seed(0)
    ExpressionPolicy(**policy_settings(tiny_model, lora=LORA | {"init_lora_weights": False})).save_adapter(folder)
    return str(folder)


@pytest.fixture
def sampler(encoder):
    return RolloutSampler(encoder.chat_format, "float32", temperature=1.0, top_k=None, max_new_tokens=8, max_batch=16)


@pytest.fixture
def make_learner(tiny_model, sft_adapter):
    def make(judge=None, sampler=None, learning_rate=1e-2, **changes):
        settings = policy_settings(tiny_model, init_adapter=sft_adapter)
        optimizer = OPTIMIZER | {"learning_rate": learning_rate}
        return JPOLearner(settings, optimizer, **(JPO | changes), judge=judge, sampler=sampler)

    return make


@pytest.fixture
def items(encoder):
    """Four episodes of two scenarios, every turn chosen."""
    return judged_chats(make_episodes(4), [[True, True]] * 4, encoder)


@pytest.fixture
def contexts(encoder):
    return encode_contexts(make_episodes(2), [[True, True]] * 2, encoder, reserve=8)


def batch_of(items):
    return collate_judged(items, pad_id=0)


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
    sampled = fit(make_learner(VowelJudge(), sampler), [collate_contexts(contexts)])[1]
    for row in (corpus[0], sampled[0]):
        assert row["train/ratio_mean"] == row["train/ratio_min"] == row["train/ratio_max"] == 1.0
        assert row["train/kl"] == 0.0 and row["train/clip_fraction"] == 0.0
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
    assert (change[good] > 0).all() and (change[~good] < 0).all()


def test_sampled_replies_that_the_judge_prefers_become_more_frequent(make_learner, contexts, sampler):
    learner = make_learner(VowelJudge(), sampler, samples=16, clip_range=10.0, kl_coef=0.0)
    _, rows = fit(learner, [collate_contexts(contexts)], epochs=20)
    rewards = [row["train/reward"] for row in rows]
    assert sum(rewards[-8:]) / 8 > sum(rewards[:8]) / 8 + 0.3


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
    figures = learner.objective(learner.rollouts.logged(learner.policy, batch))
    assert figures["loss"].item() == pytest.approx(expected, abs=1e-4)
    assert figures["clip_fraction"] > 0


def test_scores_are_compared_within_the_scenario_and_not_within_the_batch(make_learner, items):
    """A batch of one episode holds half of its scenario's turns; the other half still counts."""

    class ByEpisode(RoundJudge):
        def score(self, request):
            return 9.0 if "want 20" in request.utterance or "want 21" in request.utterance else 3.0

    judge = ByEpisode()
    learner = make_learner(judge)
    learner.configure_model()
    rollout = learner.rollouts.logged(learner.policy, batch_of(items[:1]))
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
    rollout = partly.rollouts.logged(partly.policy, batch_of(items))
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
    rollout = learner.rollouts.logged(learner.policy, batch_of(items[:1]))
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
    assert learner.rollouts.logged(learner.policy, batch_of(items)).advantages == [0.0, 1.0] * 4


def test_without_a_judge_the_values_that_came_with_the_turns_count(make_learner, encoder):
    values = [[1.0, 3.0], [0.0, None], [1.0, 3.0], [4.0, 2.0]]
    items = judged_chats(make_episodes(4), [[True, True]] * 4, encoder, values)
    learner = make_learner(None)
    learner.configure_model()
    assert learner.rollouts.logged(learner.policy, batch_of(items[:1])).advantages == [-1.0, 1.0]
    assert learner.rollouts.logged(learner.policy, batch_of(items[1:2])).scores == [0.0, None]


def test_four_accumulated_batches_of_one_are_one_batch_of_four(make_learner, items):
    """Of equal length, for means of means; the group is the scenario in both cases."""
    found = {}
    length = items[0].chat.utterance.count(0) + items[0].chat.utterance.count(1)
    same = [item for item in items for _ in range(4) if sum(o >= 0 for o in item.chat.utterance) == length][:4]
    for size, accumulate in ((4, 1), (1, 4)):
        gradients = Gradients()
        batches = [batch_of(same[i : i + size]) for i in range(0, 4, size)]
        fit(make_learner(RoundJudge()), batches, accumulate_grad_batches=accumulate, callbacks=[gradients])
        found[size] = gradients.latest
    for name, gradient in found[4].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_a_checkpoint_holds_the_adapter_and_plain_values_only(make_learner, items, tmp_path):
    learner = make_learner(RoundJudge())
    trainer, _ = fit(learner, [batch_of(items)])
    trainer.save_checkpoint(tmp_path / "jpo.ckpt")
    saved = torch.load(tmp_path / "jpo.ckpt", weights_only=True)
    assert saved["state_dict"] and all(".lora_" in n and ".policy." in n for n in saved["state_dict"])
    assert {"judge", "sampler"}.isdisjoint(saved["hyper_parameters"])
    assert set(saved["jpo"]["memory"]["ref_logprobs"]) == {item.key for item in items}
    loaded = JPOLearner.load_from_checkpoint(tmp_path / "jpo.ckpt", weights_only=True)
    assert same_weights(adapter(loaded), adapter(learner))


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("source", ["corpus", "sampled"])
def test_a_resumed_run_ends_with_the_same_weights(make_learner, items, contexts, encoder, tmp_path, source, step):
    batch = batch_of(items) if source == "corpus" else collate_contexts(contexts)

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
    known = learner.rollouts.memory.reference(learner.policy, batch_of(items[1:2]))
    assert torch.equal(again.rollouts.memory.reference(again.policy, batch_of(items[1:2])), known)
    assert again.rollouts.memory.group_scores == learner.rollouts.memory.group_scores


def test_every_draw_has_its_own_seed_and_every_validation_the_same(make_learner):
    rollouts = make_learner(RoundJudge()).rollouts
    drawn = [rollouts.training_seed(0, step) for step in (0, 0, 1, 1, 2)]
    assert len(set(drawn)) == 5
    fresh = make_learner(RoundJudge()).rollouts
    assert [fresh.training_seed(0, 1), fresh.training_seed(0, 1)] == drawn[2:4]
    assert rollouts.validation_seed(0, 3) == rollouts.validation_seed(0, 3) not in drawn
    assert fresh.training_seed(1, 2) != drawn[4]


def test_samples_come_from_the_policy_as_it_is(make_learner, contexts, sampler, encoder):
    learner = make_learner(VowelJudge(), sampler)
    fit(learner, [collate_contexts(contexts)], epochs=3)
    learner.rollouts.sampled(learner.policy, collate_contexts(contexts), 2, 7, learner.global_step)
    fresh = RolloutSampler(encoder.chat_format, "float32", 1.0, None, 8, 16)
    fresh.refresh(learner.policy)
    ids = [context.input_ids for context in contexts]
    assert sampler.sample(ids, 2, seed=7) == fresh.sample(ids, 2, seed=7)


def test_people_can_read_the_latest_samples(make_learner, contexts, sampler, items):
    learner = make_learner(VowelJudge(), sampler)
    fit(learner, [collate_contexts(contexts)])
    assert len(learner.last_samples) == 4 * len(contexts)
    words, emotion, utterance, score = learner.last_samples[4]
    assert (words, emotion) == (contexts[1].words, contexts[1].emotion)
    assert score == 1.0 + min(9.0, sum(letter in "aeiou" for letter in utterance))
    corpus = make_learner(RoundJudge())
    fit(corpus, [batch_of(items)])
    assert corpus.last_samples[0] == ("", "anger", "Round 0: I want 20 days.", 2.0)


def test_validation_shows_reward_of_contexts_and_surrogate_of_corpus_turns(make_learner, items, contexts, sampler):
    learner = make_learner(VowelJudge(), sampler, learning_rate=0.0)
    trainer, _ = fit(learner, [collate_contexts(contexts)], epochs=2, val=[collate_contexts(contexts)])
    shown = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    assert shown["val/reward"] >= 1.0 and shown["val/kl"] == 0.0 and "val/surrogate" not in shown
    learner = make_learner(RoundJudge())
    trainer, _ = fit(learner, [batch_of(items)], epochs=8, val=[batch_of(items)])
    assert trainer.callback_metrics["val/surrogate"] < 0 < trainer.callback_metrics["val/kl"]
    assert "val/reward" not in trainer.callback_metrics


def test_foreign_checkpoints_and_settings_are_refused_by_name(make_learner, items, contexts, tmp_path, tiny_model):
    trainer, _ = fit(make_learner(RoundJudge()), [batch_of(items)])
    trainer.save_checkpoint(tmp_path / "jpo.ckpt")
    other = tmp_path / "other"
    ExpressionPolicy(**policy_settings(tiny_model)).save_adapter(other)
    foreign = JPOLearner(policy_settings(tiny_model, init_adapter=str(other)), OPTIMIZER, **JPO, judge=RoundJudge())
    with pytest.raises(UserError, match=f"another adapter than {other}"):
        fit(foreign, [batch_of(items)], ckpt_path=tmp_path / "jpo.ckpt")
    with pytest.raises(UserError, match="samples=1"):
        make_learner(RoundJudge(), samples=1)
    with pytest.raises(UserError, match="needs a judge and a sampler"):
        fit(make_learner(RoundJudge()), [collate_contexts(contexts)])
