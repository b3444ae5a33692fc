"""JPO on replies that name their emotion: the judge hears the words and the name, and nothing of nameless replies."""

import pytest
import torch
from chat_training import VowelJudge, fit, make_episodes, make_jpo_learner, policy_settings
from transformers import AutoTokenizer

from emodistill.data.chat_datasets import ContextBatch
from emodistill.data.chats import ChatEncoder, encode_contexts
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.learners.jpo import reference
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.expression_policy import ExpressionPolicy

VOCABULARY = load_vocabulary()


class Named:
    """A sampler whose replies are scripted in words, one for each sample of a context."""

    def __init__(self, chat_format, said):
        self.chat_format, self.said = chat_format, said

    def refresh(self, policy):
        pass

    def sample(self, contexts, count, seed, numbers=None):
        return [[self.chat_format.reply(self.said[i % len(self.said)]) for i in range(count)] for _ in contexts]

    def text(self, reply):
        return self.chat_format.text(reply)


class Listening(VowelJudge):
    def scores(self, requests, on_score=None):
        self.requests = [*getattr(self, "requests", []), *requests]
        return super().scores(requests, on_score)


def sampled(learner, batch, count):
    """A rollout of replies that are sampled and judged at once."""
    drawn = learner.queue.draw(learner.policy, batch, count, 0, 0)
    return learner.judged(drawn, reference(learner.policy, drawn.chats), 2)


@pytest.fixture
def chat_format(tiny_model):
    return ChatFormat(AutoTokenizer.from_pretrained(tiny_model), VOCABULARY, "self_selected")


@pytest.fixture
def adapter(tiny_model, tmp_path):
    torch.manual_seed(0)
    ExpressionPolicy(**policy_settings(tiny_model, emotions="self_selected")).save_adapter(tmp_path / "adapter")
    return str(tmp_path / "adapter")


@pytest.fixture
def rollout(tiny_model, adapter, chat_format):
    """Makes a learner, a rollout of two contexts, and the judge that was asked."""

    def make(*said, **changes):
        judge = Listening()
        learner = make_jpo_learner(tiny_model, adapter, judge, Named(chat_format, said), **changes)
        learner.hparams["policy"]["emotions"] = "self_selected"
        learner.configure_model()
        contexts = encode_contexts(make_episodes(1), [[True, True]], ChatEncoder(chat_format, 4096), reserve=8)
        batch = ContextBatch(contexts)
        return learner, sampled(learner, batch, 4), judge, batch

    return make


def test_the_judge_hears_the_words_and_the_named_emotion(rollout):
    learner, found, judge, _ = rollout("joy: aaa", "anger: eee aa", "Fear: iou", "love: o")
    assert [(r.emotion, r.utterance) for r in judge.requests[:3]] == [
        ("joy", "aaa"),
        ("anger", "eee aa"),
        ("fear", "iou"),
    ]
    assert found.scores == [4.0, 6.0, 4.0, 2.0] * 2
    assert learner.objective(found)["unnamed"].item() == 0.0


def test_a_reply_without_a_name_has_no_score_and_teaches_nothing(rollout):
    learner, found, judge, _ = rollout("joy: aaa", "hope: aaaaaaaa", "anger: a", "aaaa")
    assert [request.utterance for request in judge.requests] == ["aaa", "a"] * 2
    assert found.scores == [4.0, None, 2.0, None] * 2
    assert found.advantages == [1.0, None, -1.0, None] * 2
    metrics = learner.objective(found)
    assert (metrics["unnamed"].item(), metrics["reward_missing"].item()) == (0.5, 0.5)
    assert metrics["reward"].item() == 3.0


def test_replies_of_which_none_has_a_name_change_nothing_and_blame_no_judge(rollout):
    judging = {"look_ahead": 0, "timeout_s": 20.0, "min_group": 2, "max_unscored_batches": 1}
    learner, found, judge, batch = rollout("hope: aaa", judging=judging)
    assert not getattr(judge, "requests", []) and found.scores == [None] * 8
    metrics = learner.objective(found)
    assert metrics["loss"].item() == 0.0 and metrics["unnamed"].item() == 1.0
    before = [parameter.detach().clone() for parameter in learner.policy.parameters() if parameter.requires_grad]
    fit(learner, [batch], epochs=2)
    after = [parameter for parameter in learner.policy.parameters() if parameter.requires_grad]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_where_nobody_names_anything_nothing_is_said_of_it(tiny_model, sft_adapter, contexts, sampler):
    learner = make_jpo_learner(tiny_model, sft_adapter, VowelJudge(), sampler)
    learner.configure_model()
    found = sampled(learner, ContextBatch(contexts), 2)
    assert found.unnamed is None and "unnamed" not in learner.objective(found)


def test_an_adapter_of_another_way_is_refused_by_name(tiny_model, adapter, sft_adapter):
    settings = policy_settings(tiny_model)
    with pytest.raises(UserError, match="trained with emotions self_selected, not prompted"):
        ExpressionPolicy(**settings, init_adapter=adapter)
    with pytest.raises(UserError, match="trained with emotions prompted, not none"):
        ExpressionPolicy(**settings, init_adapter=sft_adapter, emotions="none")
