"""What is measured of a policy's replies in fixed contexts."""

import math

import pytest
from chat_training import make_encoder
from episodes import make_episode
from tiny_model import build_tiny_model

from emodistill.data.chats import encode_contexts
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.expression import Spoken, expression_metrics, mean, speak


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """Offers of 20, 21 and 22 days with anger, joy and caring."""
    encoder = make_encoder(build_tiny_model(tmp_path_factory.mktemp("model")))
    return encode_contexts([make_episode(3)], [[True, True, True]], encoder, reserve=8)


class Parrot:
    """Says the same three things in every round, and remembers what it was asked for."""

    lines = ("20 days, and that makes me furious!", "I want 45 days.", "No.")

    def refresh(self, policy):
        raise AssertionError("speaking does not change the sampler")

    def sample(self, contexts, count, seed):
        self.asked = (contexts, count, seed)
        return [[[i]] for i in range(len(contexts))]

    def text(self, reply):
        return self.lines[reply[0]]


class Judge:
    def scores(self, requests):
        self.requests = requests
        return [None if request.utterance == "No." else float(len(request.history)) for request in requests]


def test_every_context_gets_one_judged_reply(contexts):
    parrot, judge = Parrot(), Judge()
    spoken = speak(parrot, contexts, judge, seed=3)
    assert parrot.asked == ([context.input_ids for context in contexts], 1, 3)
    assert [row.text for row in spoken] == list(Parrot.lines)
    assert [row.score for row in spoken] == [0.0, 2.0, None]
    assert [row.context for row in spoken] == list(contexts)
    assert [request.emotion for request in judge.requests] == ["anger", "joy", "caring"]


def test_metrics_by_hand(contexts):
    found = expression_metrics(
        speak(Parrot(), contexts, Judge(), seed=0), load_perceiver("counterparty"), load_vocabulary()
    )
    assert found["stated_offers"] == pytest.approx(1 / 3)  # 45 was not the offer, No is none
    assert found["judge_score"] == 1.0  # of 0 and 2; the missing one is left out
    assert found["words"] == pytest.approx((7 + 4 + 1) / 3)
    assert 0.0 <= found["faithfulness"] <= 1.0


def test_faithfulness_is_the_share_that_is_recognised(contexts):
    said = [Spoken(contexts[0], "I am furious, this makes me so angry!", None)]
    perceiver, vocabulary = load_perceiver("counterparty"), load_vocabulary()
    assert expression_metrics(said, perceiver, vocabulary)["faithfulness"] == 1.0
    assert math.isnan(expression_metrics(said, perceiver, vocabulary)["judge_score"])
    other = [Spoken(contexts[1], "I am furious, this makes me so angry!", 5.0)]
    assert expression_metrics([*said, *other], perceiver, vocabulary)["faithfulness"] == 0.5


def test_no_reply_has_no_metrics():
    assert all(map(math.isnan, expression_metrics([], load_perceiver("counterparty"), load_vocabulary()).values()))
    assert math.isnan(mean([])) and mean([1.0, 2.0]) == 1.5
