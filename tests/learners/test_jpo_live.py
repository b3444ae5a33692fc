"""JPO with a judge at work in the background: the same replies and weights, and a judge that fails does no harm."""

import threading
import time
from dataclasses import replace

import lightning as L
import pytest
from chat_training import (
    JUDGING,
    Keeping,
    RoundJudge,
    VowelJudge,
    Watched,
    adapter,
    batch_of,
    fit,
    make_episodes,
    make_jpo_learner,
    same_weights,
)
from lightning.pytorch.callbacks import LambdaCallback

from callbacks.throughput import Throughput
from emodistill.data import chats
from emodistill.data.chat_datasets import ChatSource, ContextBatch, ContextBatches, JPODataset
from emodistill.data.chats import contexts_by_episode
from emodistill.data.corpus import CorpusFile
from emodistill.data.module import NegotiationData
from emodistill.data.schema import write_episodes
from emodistill.data.selection import AllTurns
from emodistill.errors import UserError
from emodistill.policy.generation import RolloutSampler

WAIT_S = 20


@pytest.fixture
def batches(contexts):
    """Four batches of one context, which know what comes after them."""
    return list(ContextBatches([[context] for context in contexts], 1, seed=0))


@pytest.fixture
def make(tiny_model, sft_adapter, encoder):
    def learner(judge=None, sampler=None, **judging):
        sampler = sampler or RolloutSampler(encoder.chat_format, "float32", 1.0, None, 8, 16)
        return make_jpo_learner(tiny_model, sft_adapter, judge or VowelJudge(), sampler, judging=JUDGING | judging)

    return learner


@pytest.fixture
def make_judgeless(tiny_model, sft_adapter):
    return lambda: make_jpo_learner(tiny_model, sft_adapter)


class Hanging(VowelJudge):
    """Never answers from its n-th utterance on, until the test is over."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.over = answers, threading.Event()

    def scores(self, requests, on_score=None):
        for place, request in enumerate(requests):
            if len(self.asked) >= self.answers:
                self.over.wait(WAIT_S)
            self.asked.append(request.utterance)
            on_score(place, self.score(request))
        return [self.score(request) for request in requests]


@pytest.mark.parametrize("accumulate", [1, 3, 4])
def test_looking_ahead_changes_no_weight(make, batches, accumulate):
    """With three batches a step, the last step of an epoch has one."""
    found = []
    for look_ahead in (0, 1, 3):
        learner = make(look_ahead=look_ahead)
        _, rows = fit(learner, batches, epochs=2, accumulate_grad_batches=accumulate)
        found.append((adapter(learner), [row["train/reward"] for row in rows]))
    assert all(same_weights(found[0][0], one) for one, _ in found[1:])
    assert found[0][1] == found[1][1] == found[2][1]


def test_replies_come_from_the_weights_of_their_step(make, batches, sampler):
    """Drawn together within a step, never over its end: each step takes the new weights and samples once."""
    watched = Watched(sampler)
    fit(make(sampler=watched, look_ahead=9), batches, epochs=2, accumulate_grad_batches=2)
    assert watched.notes == ["refresh", "sample"] * 4


@pytest.fixture
def encoded_once(encoder, monkeypatch):
    """Four episodes of one context each, of which the loader keeps only one; and which were encoded, in order."""
    monkeypatch.setattr(chats, "KEPT", 1)
    episodes, places = make_episodes(4), []
    items = contexts_by_episode(episodes, [[False, True]] * 4, encoder, reserve=8)
    encode = encoder.contexts
    monkeypatch.setattr(
        encoder, "contexts", lambda one, *rest: places.append(episodes.index(one)) or encode(one, *rest)
    )
    return items, places


def test_a_step_with_more_episodes_than_are_kept_encoded_trains(make, encoded_once):
    items, _ = encoded_once
    fit(make(), list(ContextBatches(items, 1, seed=0)), accumulate_grad_batches=4)


def test_nothing_of_the_next_step_is_encoded_for_a_sampler_that_does_not_draw_ahead(make, encoded_once):
    items, places = encoded_once
    learner = make()
    learner.configure_model()
    batch = next(iter(ContextBatches(items, 1, seed=0)))
    learner.queue.next_batch(learner.policy, batch, 2, 0, 0, left=1)
    assert len(set(places)) == 2


def test_a_step_has_the_same_replies_however_it_is_cut_into_batches(make, contexts):
    found = []
    for size, accumulate in ((4, 1), (2, 2), (1, 4)):
        judge, loader = VowelJudge(), list(ContextBatches([[context] for context in contexts[:4]], size, seed=0))
        fit(make(judge), loader, accumulate_grad_batches=accumulate)
        found.append(judge.asked)
    assert len(found[0]) == 16 and found[0] == found[1] == found[2]


@pytest.mark.parametrize("look_ahead", [0, 1, 3])
def test_so_many_batches_are_put_to_the_judge_before_they_are_needed(make, batches, look_ahead):
    """Counted when the scores of the first batch are waited for."""
    learner = make(look_ahead=look_ahead)
    asked, waiting = [], []
    ask, collect = learner.judge.ask, learner.judge.collect
    learner.judge.ask = lambda requests: asked.append(ask(requests)) or asked[-1]
    learner.judge.collect = lambda future: waiting.append(len(asked)) or collect(future)
    fit(learner, batches, accumulate_grad_batches=4)
    assert waiting[0] == 1 + look_ahead and len(asked) == 4


def test_an_epoch_that_is_cut_short_leaves_no_reply_of_older_weights_behind(make, batches):
    found = []
    for look_ahead in (0, 3):
        learner = make(look_ahead=look_ahead)
        fit(learner, batches, epochs=3, accumulate_grad_batches=4, limit_train_batches=3)
        found.append(adapter(learner))
    assert same_weights(*found)


def test_a_dead_judge_slows_training_and_changes_nothing(make, batches):
    judge = Hanging(answers=0)
    learner = make(judge, timeout_s=0.1)
    learner.configure_model()
    before, began = adapter(learner), time.monotonic()
    _, rows = fit(learner, batches, accumulate_grad_batches=2)
    judge.over.set()
    assert time.monotonic() - began < WAIT_S / 2
    assert same_weights(adapter(learner), before)
    assert all(row["train/reward_missing"] == 1.0 and row["train/skipped_groups"] == 1.0 for row in rows)
    assert all(row["train/judge_wait_s"] >= 0.1 for row in rows)


def test_what_a_judge_said_before_it_hung_counts(make, contexts):
    judge = Hanging(answers=7)
    _, rows = fit(make(judge, timeout_s=0.5), [ContextBatch(contexts[:3])])
    judge.over.set()
    assert rows[0]["train/reward_missing"] == pytest.approx(5 / 12)
    assert rows[0]["train/skipped_groups"] == 1.0  # four scores, three, none


@pytest.mark.parametrize(("min_group", "skipped"), [(2, 0), (3, 0), (4, 1)])
def test_a_group_with_too_few_scores_teaches_nothing(make, contexts, min_group, skipped):
    """Four replies, one of them without a score: the group is as large as three."""

    class Forgetful(VowelJudge):
        def scores(self, requests, on_score=None):
            return [None, *super().scores(requests)[1:]]

    learner = make(Forgetful(), min_group=min_group)
    learner.configure_model()
    before = adapter(learner)
    _, rows = fit(learner, [ContextBatch(contexts[:1])])
    assert rows[0]["train/skipped_groups"] == skipped and rows[0]["train/reward_missing"] == 0.25
    assert same_weights(adapter(learner), before) == bool(skipped)
    assert ("train/kl" in rows[0]) != bool(skipped)


def test_groups_of_the_corpus_are_skipped_too_and_the_others_learn(make, items):
    quiet = [request.utterance for request in items[0].group.requests[1:]]
    learner = make(RoundJudge(silent_on=quiet))
    learner.configure_model()
    rollout = learner.from_corpus(batch_of(items))
    assert (rollout.skipped, rollout.degenerate) == (1, 0)
    mine = [item.group.name == items[0].group.name for item in items for _ in item.places]
    assert [one is None for one in rollout.advantages] == mine


def test_one_reply_in_validation_is_no_group_and_is_not_skipped(make, contexts):
    trainer, _ = fit(make(), [ContextBatch(contexts)], val=[ContextBatch(contexts)])
    assert trainer.callback_metrics["val/reward"] >= 1.0 and trainer.callback_metrics["val/reward_missing"] == 0


def test_a_judge_that_is_gone_for_long_ends_the_run_with_a_sentence(make, batches, contexts):
    silent = VowelJudge()
    silent.score = lambda request: None
    with pytest.raises(UserError, match="no score to 3 batches in a row"):
        fit(make(silent, max_unscored_batches=3), batches)
    now_and_then = VowelJudge()
    now_and_then.score = lambda request: 5.0 if len(now_and_then.asked) % 8 else None
    fit(make(now_and_then, max_unscored_batches=2), batches)


def test_a_judge_that_breaks_down_ends_the_run(make, batches):
    class Broken(VowelJudge):
        def scores(self, requests, on_score=None):
            raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        fit(make(Broken()), batches)


@pytest.fixture
def data(tiny_model, tmp_path):
    def made(utterances, **settings):
        one, other = make_episodes(2)
        unseen = replace(other.scenario, context=other.scenario.context | {"Recovery Stage": "Late"})
        write_episodes([one, replace(other, split="val", scenario=unseen)], tmp_path / "episodes.parquet")
        source = ChatSource(tiny_model, "goemotions28", 4096)
        dataset = JPODataset(source, AllTurns(), utterances, 1, 2, 8, **settings)
        return NegotiationData(CorpusFile(str(tmp_path / "episodes.parquet")), dataset, seed=0)

    return made


def train_on(learner, data):
    """One step; the warnings of a tiny run do not matter here."""
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_steps=1, accelerator="cpu", enable_checkpointing=False, limit_val_batches=0, **settings)
    trainer.fit(learner, data)
    return trainer.global_step


def test_a_smallest_group_that_no_group_reaches_is_refused_where_replies_are_sampled(make, data):
    with pytest.raises(UserError, match="samples=4: judging.min_group=5"):
        train_on(make(min_group=5), data("sampled"))
    assert train_on(make(RoundJudge(), min_group=5), data("corpus")) == 1


def test_without_a_judge_what_is_missing_is_named_before_the_first_step(make_judgeless, data):
    def advantages(episodes):
        return [[1.0, -1.0] for _ in episodes]

    with pytest.raises(UserError, match=r"learner\.judge=null: .*give data\.dataset\.advantages"):
        train_on(make_judgeless(), data("corpus", validation_chats=1))
    with pytest.raises(UserError, match=r"learner\.judge=null: .*give data\.dataset\.validation_chats"):
        train_on(make_judgeless(), data("corpus", advantages=advantages))
    assert train_on(make_judgeless(), data("corpus", advantages=advantages, validation_chats=1)) == 1


def test_replies_count_in_the_throughput(make, batches):
    learner, keeper = make(), Keeping()
    listen = LambdaCallback(on_fit_start=lambda trainer, _: setattr(trainer, "loggers", [keeper]))
    fit(learner, batches, callbacks=[listen, Throughput()], log_every_n_steps=1)
    assert learner.amounts[0] == 4 and 4 <= learner.amounts[1] <= 4 * 9
    last = next(row for row in reversed(keeper.rows) if "throughput/turns_per_second" in row)
    steps, turns = last["throughput/steps_per_second"], last["throughput/turns_per_second"]
    assert turns == pytest.approx(4 * steps)
    assert last["throughput/response_tokens_per_second"] == pytest.approx(learner.amounts[1] * steps)
