"""Focal turns as transitions: what counts for which turn where some show no emotion or say not how likely it was."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from chat_training import RoundJudge
from episodes import make_episode
from rewards import default_reward

from emodistill.data.observations import Observer
from emodistill.data.transitions import Reward, TransitionDataset, build_transitions, reward_scale, stats_of
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


def test_an_episode_whose_last_turn_has_no_score_is_left_out_and_that_is_said(observer, caplog):
    judged = default_reward(judge=1)
    episodes = [muted(make_episode(rounds=2, number=i, seed=i)) for i in range(3)]
    given = [np.array(scores) for scores in ([5.0, 5.0], [5.0, np.nan], [np.nan, 5.0])]
    with caplog.at_level(logging.WARNING):
        table = build_transitions(episodes, observer, judged, lambda chosen: given)
    assert table.episode.tolist() == [0, 0, 2] and table.transitions.terminal.tolist() == [0.0, 1.0, 1.0]
    assert "1 of 3 episodes are left out" in caplog.text
    with pytest.raises(UserError, match=r"the last turn of none of 3 episodes; .* data\.dataset\.reward\.judge=0"):
        build_transitions(episodes, observer, judged, lambda chosen: [np.array([5.0, np.nan])] * 3)


def test_the_judge_is_asked_only_about_turns_that_show_an_emotion():
    judge = RoundJudge()
    reward = default_reward(concession=0, judge=9)
    view = TransitionDataset("goemotions28", "full", reward, batch_size=4, batches_per_epoch=1, judge=judge)
    view.prepare([muted(WHOLE, 2)], [WHOLE])
    said = [turn.text for turn in WHOLE.focal_turns]
    assert judge.asked == [*said[:1], *said[2:], *said]
    assert view.train.reward.tolist() == [1.0, 8.0, 8.0]


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


SAME = Reward(concession=0.0, utility=0.0, judge=0.0, deal_bonus=2.0, no_deal_penalty=2.0, move_limit=2.0)


def test_rewards_without_spread_keep_their_unit(observer):
    """Episodes of one turn that all end without a deal earn -2 each, and -2 is what fitted Q evaluation finds."""
    episodes = [make_episode(rounds=1, number=i, seed=i) for i in range(12)]
    table = build_transitions(episodes, observer, replace(SAME, concession=1.0))
    assert set(table.transitions.reward.tolist()) == {-2.0}
    assert stats_of(table.transitions, 28)["reward_scale"] == 1.0
    policy = torch.nn.functional.one_hot(table.transitions.action, 28).float()
    assert fitted_q_value(table, policy, policy, 0.99) == pytest.approx(-2.0, abs=0.02)


@pytest.mark.parametrize(
    ("rewards", "scale"),
    [([-2.0], 1.0), ([0.0, 0.0], 1.0), ([0.1 + 0.2, 0.3], 1.0), ([5.0, 5.0 + 1e-7], 1.0), ([0.0, 1e-3], 7.071e-4)],
)
def test_the_scale_of_rewards_is_their_spread_or_one(rewards, scale):
    assert reward_scale(torch.tensor(rewards), correction=1) == pytest.approx(scale, rel=1e-3)


def test_one_transition_alone_has_finite_statistics(observer):
    table = build_transitions([make_episode(rounds=1)], observer, replace(SAME, concession=1.0)).transitions
    stats = stats_of(table, 28)
    assert stats["reward_scale"] == 1.0 and set(stats["observation_std"]) == {1.0}
