"""Expression in fixed contexts_of by policies that name their emotions, and by those that know none."""

import json
import math

import pytest
from episodes import make_episode
from tiny_model import build_tiny_model
from transformers import AutoTokenizer

from emodistill.data.chats import ChatEncoder, encode_contexts
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.expression import ExpressionTest, expression_metrics, speak
from emodistill.policy.chat_format import ChatFormat

VOCABULARY = load_vocabulary()
FURIOUS = "I am furious, this makes me so angry! 20 days."


class Parrot:
    def __init__(self, *lines):
        self.lines = lines

    def sample(self, contexts, count, seed):
        return [[[i]] for i in range(len(contexts))]

    def text(self, reply):
        return self.lines[reply[0]]


class Judge:
    def scores(self, requests):
        self.requests = requests
        return [5.0 for _ in requests]


@pytest.fixture(scope="module")
def contexts_of(tmp_path_factory):
    tokenizer = AutoTokenizer.from_pretrained(build_tiny_model(tmp_path_factory.mktemp("model")))

    def written(emotions):
        encoder = ChatEncoder(ChatFormat(tokenizer, VOCABULARY, emotions), 4096)
        return encode_contexts([make_episode(3)], [[True] * 3], encoder, reserve=8)

    return written


def test_a_policy_is_faithful_to_the_emotion_that_it_named(contexts_of):
    judge, parrot = Judge(), Parrot(f"anger: {FURIOUS}", f"joy: {FURIOUS}", FURIOUS)
    spoken = speak(parrot, contexts_of("self_selected"), judge, seed=0)
    assert [(r.emotion, r.utterance) for r in judge.requests] == [("anger", FURIOUS), ("joy", FURIOUS)]
    assert [row.score for row in spoken] == [5.0, 5.0, None]
    found = expression_metrics(spoken, load_perceiver("counterparty"), VOCABULARY)
    assert found["faithfulness"] == 0.5 and found["named"] == pytest.approx(2 / 3)
    assert found["stated_offers"] == pytest.approx(1 / 3)  # of 20, 21 and 22 days
    assert found["words"] == len(FURIOUS.split())  # the name is none of them


def test_without_emotions_there_is_nothing_to_be_faithful_to(contexts_of):
    found = expression_metrics(
        speak(Parrot(*[FURIOUS] * 3), contexts_of("none"), Judge(), 0), load_perceiver("judge"), VOCABULARY
    )
    assert math.isnan(found["faithfulness"]) and found["judge_score"] == 5.0 and "named" not in found


def test_each_policy_meets_the_contexts_as_it_was_trained_to(contexts_of, tmp_path):
    judge = Judge()
    test = ExpressionTest(contexts_of, judge, load_perceiver("counterparty"), VOCABULARY, tmp_path)
    for source, emotions in (("jpo", "prompted"), ("jpo_emotion_free", "none"), ("jpo_joint", "self_selected")):
        test.measure(source, Parrot(*[f"fear: {FURIOUS}"] * 3), emotions)
        asked = {"prompted": ["anger", "joy", "caring"], "none": [None] * 3, "self_selected": ["fear"] * 3}[emotions]
        assert [request.emotion for request in judge.requests] == asked
    rows = test.rows(["jpo", "jpo_emotion_free", "jpo_joint"])
    assert [row.get("named") for row in rows] == [None, None, 1.0] and rows[1]["faithfulness"] is None
    assert [row["contexts"] for row in rows] == [3, 3, 3]
    samples = json.loads((tmp_path / "jpo_joint.json").read_text())["samples"]
    assert (samples[0]["emotion"], samples[0]["reply"]) == ("fear", FURIOUS)
