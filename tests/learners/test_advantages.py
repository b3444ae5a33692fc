import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emodistill.learners.jpo import LIMIT, Comparison, best_only, group_advantages

SCORES = st.lists(st.one_of(st.none(), st.floats(1, 10)), max_size=30)


def test_a_group_of_which_a_part_of_the_reward_differs_is_not_degenerate():
    def degenerate(part):
        return Comparison.of([[5.0, 5.0, None]], 2, 1.0, [(1.0, [part])]).degenerate

    assert degenerate([0.0, 1.0, 0.0]) == 0
    assert degenerate([1.0, 1.0, 0.0]) == 1  # only the reply that nobody scored differs


@given(SCORES)
def test_advantages_of_a_group_have_mean_zero_and_std_one(scores):
    advantages = group_advantages(scores, negative_weight=1.0)
    assert [a is None for a in advantages] == [s is None for s in scores]
    known = [a for a in advantages if a is not None]
    if any(known) and all(abs(a) < LIMIT for a in known):
        assert sum(known) == pytest.approx(0, abs=1e-6)
        assert math.sqrt(sum(a * a for a in known) / len(known)) == pytest.approx(1)


@given(SCORES)
def test_the_better_score_has_the_higher_advantage(scores):
    pairs = [(s, a) for s, a in zip(scores, group_advantages(scores, 1.0), strict=True) if s is not None]
    for score, advantage in pairs:
        assert all(advantage >= a for s, a in pairs if score >= s)


@pytest.mark.parametrize("scores", [[], [7.0], [None, 7.0], [5.0, 5.0, 5.0], [0.1 + 0.2, 0.3], [None, None]])
def test_a_group_that_says_nothing_gives_zero(scores):
    assert group_advantages(scores, 1.0) == [None if s is None else 0.0 for s in scores]


def test_missing_scores_do_not_move_the_others():
    assert group_advantages([2.0, None, 9.0, None], 1.0) == [-1.0, None, 1.0, None]


def test_outliers_are_clipped_and_negatives_weighted():
    assert group_advantages([1.0] * 200 + [10.0], 1.0)[-1] == LIMIT
    assert group_advantages([10.0] * 200 + [1.0], 1.0)[-1] == -LIMIT
    assert group_advantages([10.0] * 200 + [1.0], 0.5)[-1] == -LIMIT / 2
    assert group_advantages([2.0, 9.0], 0.0) == [0.0, 1.0]


def test_parts_are_standardised_apart_so_that_a_wide_scale_does_not_drown_a_narrow_one():
    judge, emotion = [2.0, 9.0, 2.0, 9.0], [0.01, 0.01, 0.02, 0.02]
    assert group_advantages(judge, 1.0, [(1.0, emotion)]) == pytest.approx([-1, 0, 0, 1])
    assert group_advantages(judge, 1.0, [(3.0, emotion)]) == pytest.approx([-1, -0.5, 0.5, 1])


def test_a_part_that_says_nothing_halves_and_a_missing_score_still_drops_out():
    assert group_advantages([2.0, 9.0], 1.0, [(1.0, [0.5, 0.5])]) == [-0.5, 0.5]
    assert group_advantages([2.0, None, 9.0], 1.0, [(1.0, [None, 1.0, None])]) == [-0.5, None, 0.5]


def test_an_utterance_without_a_score_moves_no_neighbour_by_its_parts():
    """Two replies alike in the part: a third one, which the judge did not score, says nothing about them."""
    alone = group_advantages([2.0, 8.0, 9.0], 1.0, [(1.0, [0.2, 0.2, 0.4])])
    assert group_advantages([2.0, 8.0, None, 9.0], 1.0, [(1.0, [0.2, 0.2, 0.9, 0.4])]) == [*alone[:2], None, alone[2]]


def test_parts_belong_to_their_group():
    found = Comparison.of([[2.0, 9.0], [9.0, 2.0]], 2, 1.0, [(1.0, [[0.0, 1.0], [0.0, 1.0]])])
    assert found.advantages == [[-1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("advantages", "expected"),
    [
        ([-1.0, 1.5, 0.5], [None, 1.0, None]),
        ([1.0, 1.0, -2.0], [1.0, None, None]),
        ([0.0, 0.0], [None, None]),
        ([None, 2.0, None], [None, 1.0, None]),
        ([None, None], [None, None]),
    ],
)
def test_the_best_of_a_group_alone(advantages, expected):
    assert best_only(advantages) == expected
