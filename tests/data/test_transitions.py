"""Focal turns as transitions: what counts for which turn where some show no emotion or say not how likely it was."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from episodes import make_episode
from rewards import default_reward

from emodistill.data.observations import Observer
from emodistill.data.transitions import TransitionDataset, build_transitions
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.learners.ope import FittedQ, fitted_q_value, importance_sampled_value

WHOLE = make_episode(rounds=4)


@pytest.fixture(scope="module")
def observer():
    return Observer(load_vocabulary(), load_perceiver("judge"))


def muted(episode, *rounds, probability=0.25):
    """The episode with no emotion in these rounds."""
    turns = [
        replace(turn, emotion=None, emotion_prob=None)
        if turn.round in rounds
        else replace(turn, emotion_prob=probability)
        for turn in episode.turns
    ]
    return replace(episode, turns=tuple(turns))


def rewards(episode, observer, reward=None, scores=None):
    table = build_transitions([episode], observer, reward or default_reward(), scores)
    return table.transitions.reward.tolist()


def test_without_silent_turns_every_turn_keeps_its_own_reward(observer):
    assert rewards(WHOLE, observer) == pytest.approx(default_reward().of(WHOLE).tolist())


def test_what_a_silent_turn_earned_counts_for_the_turn_before_it(observer):
    own = default_reward().of(WHOLE)
    assert rewards(muted(WHOLE, 2, 4), observer) == pytest.approx([own[0] + own[1], own[2] + own[3]])


def test_the_end_counts_even_where_the_last_turn_is_silent(observer):
    deal = replace(WHOLE, end="deal", deal_value=50.0)
    gain = np.subtract(rewards(muted(deal, 4), observer), rewards(muted(WHOLE, 4), observer))
    assert gain == pytest.approx([0.0, 0.0, 4.0])
    table = build_transitions([muted(deal, 4)], observer, default_reward())
    assert table.transitions.terminal.tolist() == [0.0, 0.0, 1.0]


def test_before_the_first_emotion_nothing_was_decided(observer):
    own = default_reward().of(WHOLE)
    assert rewards(muted(WHOLE, 1), observer) == pytest.approx(own[1:].tolist())


def test_a_silent_turn_is_not_judged_and_a_missing_score_drops_its_own_turn_only(observer):
    judged = default_reward(concession=0, judge=9)
    found = rewards(muted(WHOLE, 2), observer, judged, lambda chosen: [np.array([4.0, np.nan, 6.0, 7.0])])
    assert found == pytest.approx([3.0, 5.0, 6.0])
    found = rewards(muted(WHOLE, 2), observer, judged, lambda chosen: [np.array([4.0, 8.0, np.nan, 7.0])])
    assert found == pytest.approx([3.0, 6.0])


def test_an_episode_that_shows_nothing_is_no_transition(observer):
    with pytest.raises(UserError, match="no valid episode with an emotion"):
        build_transitions([muted(WHOLE, 1, 2, 3, 4)], observer, default_reward())


def test_unknown_behaviour_probabilities_leave_fqe_and_say_so(observer, caplog):
    episodes = [muted(make_episode(number=i, seed=i), probability=None) for i in range(6)]
    view = TransitionDataset("goemotions28", "full", default_reward(), batch_size=4, batches_per_epoch=1)
    with caplog.at_level(logging.WARNING):
        view.prepare(episodes, episodes)
    assert "importance sampling is not available: 18 of the 18 turns" in caplog.text
    (table,) = view.validation_batches()
    policy = torch.full((18, 28), 1 / 28)
    weighted = importance_sampled_value(table, policy[:, 0], 0.99)
    assert (weighted.effective_size, weighted.reliable) == (0.0, False) and np.isnan(weighted.value)
    assert np.isfinite(fitted_q_value(table, policy, policy, 0.99, FittedQ(iterations=5)))


def test_known_probabilities_are_not_warned_about(caplog):
    view = TransitionDataset("goemotions28", "full", default_reward(), batch_size=4, batches_per_epoch=1)
    with caplog.at_level(logging.WARNING):
        view.prepare([WHOLE], [WHOLE])
    assert not caplog.text
