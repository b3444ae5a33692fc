"""The reward of a turn: signs, weights and ends, by hand and by symmetry."""

from dataclasses import replace

import numpy as np
import pytest
from rewards import default_reward

from emodistill.data.observations import DialoguePrefix, situation_of
from emodistill.data.schema import Episode
from emodistill.errors import UserError
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Turn
from emodistill.negotiation.scenarios import Scenario

LESS = Scenario("debt-1", "debt", 20, 120, {})  # the focal side wants less
MORE = Scenario("disaster-1", "disaster", 120, 20, {})  # the focal side wants more


def episode(scenario, offers, end="deadline", deal=None):
    turns = []
    for i, (ours, theirs) in enumerate(offers, start=1):
        turns.append(Turn(i, FOCAL, "we", offer=ours, emotion="joy", emotion_prob=0.5))
        if theirs != "silence":
            turns.append(Turn(i, COUNTERPARTY, "they", offer=theirs))
    return Episode("e", "train", scenario, "uniform", "a", "b", 0, tuple(turns), end, deal)


def test_concessions_by_hand():
    """Round 2: they move 0.2 towards us, we give 0.1; a fifteenth of the time has gone."""
    found = default_reward().of(episode(LESS, [(20, 120), (30, 100)]))
    assert found == pytest.approx([0.0, (0.2 - 0.1) * (1 - 1 / 15) - 2.0])


def test_the_sign_is_right_whether_we_want_more_or_less():
    """Defect 4: a survivor who concedes 20 -> 40 towards our 120 gives what a debtor gives who concedes 120 -> 100."""
    more = default_reward().of(episode(MORE, [(120, 20), (110, 40)]))
    less = default_reward().of(episode(LESS, [(20, 120), (30, 100)]))
    assert more == pytest.approx(less)


def test_a_deal_is_worth_four_more_than_none():
    offers = [(20, 120), (30, 100)]
    gain = default_reward().of(episode(LESS, offers, "deal", 30)) - default_reward().of(episode(LESS, offers))
    assert gain == pytest.approx([0.0, 4.0])


def test_moves_are_clipped_at_two():
    wild = default_reward().of(episode(LESS, [(20, 120), (20, -900)]))
    assert wild[-1] == pytest.approx(2.0 * (1 - 1 / 15) - 2.0)


def test_a_round_without_an_offer_moves_nothing_and_the_next_counts_from_the_last_offer():
    found = default_reward().of(episode(LESS, [(20, 120), (None, None), (None, 100)]))
    assert found == pytest.approx([0.0, 0.0, 0.2 * (1 - 2 / 15) - 2.0])


def test_an_offer_that_opens_the_dialogue_stands_before_the_first_round():
    """The observation shows it, so what the first turn brings is a move from there; see `situation_of`."""
    played = episode(LESS, [(20, 100), (20, 100)])
    opened = replace(played, turns=(Turn(0, COUNTERPARTY, "they", offer=120), *played.turns))
    assert default_reward().of(opened) - default_reward().of(played) == pytest.approx([0.2, 0.0])
    assert situation_of(DialoguePrefix(LESS, opened.turns[:3]))[0] == pytest.approx(0.2)


def test_early_concessions_are_worth_more_than_late_ones():
    early = default_reward().of(episode(LESS, [(20, 120), (20, 100), (20, 100)])).sum()
    late = default_reward().of(episode(LESS, [(20, 120), (20, 120), (20, 100)])).sum()
    assert early > late


def test_utility_part_comes_at_the_end_only():
    found = default_reward(concession=0, utility=3).of(episode(LESS, [(20, 120), (45, 45)], "deal", 45))
    assert found == pytest.approx([0.0, 3 * 0.75])


def test_judge_part_is_between_zero_and_its_weight_and_a_missing_score_is_no_number():
    played = episode(LESS, [(20, 120), (30, 100), (40, 90)])
    found = default_reward(concession=0, judge=2).of(played, np.array([1.0, 10.0, np.nan]))
    assert found[:2] == pytest.approx([0.0, 2.0])
    assert np.isnan(found[2])


def test_parts_add_up():
    played = episode(LESS, [(20, 120), (45, 45)], "deal", 45)
    scores = np.array([4.0, 7.0])
    parts = (
        default_reward().of(played)
        + default_reward(concession=0, utility=1).of(played)
        + default_reward(concession=0, judge=1).of(played, scores)
    )
    assert default_reward(utility=1, judge=1).of(played, scores) == pytest.approx(parts)


def test_a_focal_turn_that_ends_the_episode_gets_the_end():
    last = episode(LESS, [(20, 120), (None, "silence")], "deal", 120)
    assert default_reward().of(last)[-1] == pytest.approx(2.0)


def test_after_the_last_round_of_the_method_moves_count_nothing():
    """People may talk longer than 15 rounds; a concession must not turn into a loss."""
    offers = [(20, 120)] * 16 + [(20, 60)]
    assert default_reward().of(episode(LESS, offers))[-1] == pytest.approx(-2.0)


@pytest.mark.parametrize(
    "wrong", [{"move_limit": -1}, {"move_limit": 0}, {"concession": float("nan")}, {"judge": None}, {"deal_bonus": "2"}]
)
def test_numbers_without_a_meaning_are_refused_by_name(wrong):
    ((key, value),) = wrong.items()
    with pytest.raises(UserError, match=f"^data.dataset.reward.{key}={value}: it must be "):
        default_reward(**wrong)
