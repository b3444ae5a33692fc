"""Metrics over episodes: hand values, and what does not count."""

import math
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode

from emodistill.emotions.perceiver import GOEMOTIONS
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.metrics import episode_metrics, recognised


class KeywordPerceiver:
    """Perceives the emotion whose name is in the text, else neutral."""

    name, version = "keyword", "1"

    def probabilities(self, texts):
        rows = np.full((len(texts), len(GOEMOTIONS)), 0.01, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[GOEMOTIONS.index(next((label for label in GOEMOTIONS if label in text), "neutral"))] = 1.0
        return rows / rows.sum(1, keepdims=True)


def metrics():
    return episode_metrics(KeywordPerceiver(), load_vocabulary())


def deal(value, number=0, rounds=3, **changes):
    return replace(make_episode(rounds, number), end="deal", deal_value=value, **changes)


def values(found):
    return {name: float(value) for name, value in found.compute().items()}


def test_hand_values():
    """Utilities: 20 days is 1, 91 is 0, so 55.5 is a half."""
    found = metrics()
    found.update([deal(20.0), deal(55.5, rounds=1), make_episode(rounds=5)])
    shown = values(found)
    assert shown["success"] == pytest.approx(2 / 3)
    assert shown["outcome"] == pytest.approx(0.75)
    assert shown["utility"] == pytest.approx(0.5)
    assert shown["rounds"] == pytest.approx(3.0)
    assert shown["stated_offers"] == 1.0


def test_an_emotion_that_nobody_can_read_is_neither_faithful_nor_not(tmp_path):
    path = tmp_path / "own.yaml"
    labels = [f"{name}: {{directive: Show {name}., perceived_as: [{name}]}}" for name in ("joy", "anger")]
    path.write_text(f"name: own\nlabels: {{{', '.join(labels)}, deflect: {{directive: Turn it aside.}}}}\n")
    vocabulary = load_vocabulary(str(path))
    said = [("what a joy", "joy"), ("anger", "joy"), ("what a joy", "deflect"), ("anger", "deflect"), ("joy", None)]
    assert recognised(said, KeywordPerceiver(), vocabulary) == [True, False]


def test_invalid_episodes_count_for_nothing():
    invalid = replace(make_episode(rounds=9), end="invalid", fault="timeout")
    one, other = metrics(), metrics()
    one.update([deal(20.0), invalid])
    other.update([deal(20.0)])
    assert values(one) == values(other)
    nothing = metrics()
    nothing.update([invalid])
    assert all(math.isnan(value) for value in values(nothing).values())


def test_figures_add_up_over_batches():
    episodes = [deal(20.0 + 10 * i, number=i, rounds=i + 1) for i in range(4)] + [make_episode()]
    whole, parts = metrics(), metrics()
    whole.update(episodes)
    for episode in episodes:
        parts.update([episode])
    assert values(parts) == pytest.approx(values(whole))
    parts.reset()
    parts.update(episodes[:1])
    assert values(parts)["success"] == 1.0


def test_offers_that_were_appended_were_not_stated():
    turns = list(make_episode(rounds=4).turns)
    turns[0] = replace(turns[0], offer_appended=True)
    turns[1] = replace(turns[1], offer_appended=True)  # the counterparty's: none of our business
    turns[6] = replace(turns[6], act="accept", offer_appended=True)  # states no offer
    found = metrics()
    found.update([replace(make_episode(), turns=tuple(turns))])
    assert values(found)["stated_offers"] == pytest.approx(2 / 3)


def test_faithful_is_what_the_perceiver_names_first():
    turns = list(make_episode(rounds=2).turns)
    turns[0] = replace(turns[0], emotion="anger", text="such anger, 20 days")
    turns[2] = replace(turns[2], emotion="joy", text="such anger, 21 days")
    found = metrics()
    found.update([replace(make_episode(), turns=tuple(turns))])
    assert values(found)["faithfulness"] == 0.5


def test_turns_without_an_emotion_are_not_asked_about():
    found = metrics()
    found.update([make_episode(emotions=False)])
    assert math.isnan(values(found)["faithfulness"])
    said = [("such joy", "joy"), ("such joy", None), ("such joy", "anger")]
    assert recognised(said, KeywordPerceiver(), load_vocabulary()) == [True, False]
    assert recognised([("such joy", None)], KeywordPerceiver(), load_vocabulary()) == []


def test_a_coarser_vocabulary_takes_shares_together():
    """In ekman7 annoyance is anger."""
    assert recognised([("such annoyance", "anger")], KeywordPerceiver(), load_vocabulary("ekman7")) == [True]
    assert recognised([("such annoyance", "anger")], KeywordPerceiver(), load_vocabulary()) == [False]
