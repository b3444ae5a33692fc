"""Variance components: known ones from simulations, by hand, and the interval of both sources."""

import math

import numpy as np
import pytest

from benchmarks.interval_coverage import seed_spread
from emodistill.evaluation.statistics import (
    components,
    crossed,
    interquartile_mean,
    probability_of_improvement,
)


def test_known_components_are_found():
    seeds, scenarios, rest, held = seed_spread(3, 20, 400)
    assert (seeds, scenarios, rest) == pytest.approx((0.1, 0.2, 0.15), rel=0.15)
    assert held >= 0.93 - 3 * math.sqrt(0.93 * 0.07 / 400)


def test_components_by_hand():
    found = components(np.array([[0.1, 0.5], [0.3, 0.9]]))
    # squares of means: seeds .09, scenarios .25, rest .01
    assert found.mean == pytest.approx(0.45) and (found.seeds, found.scenarios) == (2, 2)
    assert found.between_seeds == pytest.approx(math.sqrt((0.09 - 0.01) / 2))
    assert found.between_scenarios == pytest.approx(math.sqrt((0.25 - 0.01) / 2))
    assert found.rest == pytest.approx(0.1) and found.truncated == ()


def test_a_negative_estimate_is_0_and_said():
    found = components(np.array([[0.1, 0.9], [0.9, 0.1]]))
    assert found.truncated == ("between_seeds", "between_scenarios")
    assert found.between_seeds == found.between_scenarios == 0.0


def test_the_interval_of_both_sources_is_wider_where_seeds_differ():
    scenarios = np.random.default_rng(0).normal(0.5, 0.05, 10)
    same = components(np.stack([scenarios, scenarios + 0.01]))
    differ = components(np.stack([scenarios, scenarios + 0.4]))
    assert differ.interval[1] - differ.interval[0] > 4 * (same.interval[1] - same.interval[0])


def test_the_p_value_agrees_with_the_interval():
    values = np.random.default_rng(1).normal(0.1, 0.2, (4, 12))
    found = components(values)
    edge = components(values - found.interval[0])  # its interval begins at 0
    assert edge.interval[0] == pytest.approx(0, abs=1e-9) and edge.p_value == pytest.approx(0.05)
    assert components(values - found.mean).p_value == pytest.approx(1) and components(values + 1).p_value < 1e-3


def test_crossed_keeps_scenarios_that_all_seeds_played():
    first = {("debt", "a", 0): 0.2, ("debt", "a", 1): 0.4, ("debt", "b", 0): 1.0, ("student", "a", 0): 0.5}
    second = {("debt", "a", 0): 0.6, ("student", "a", 0): 0.7}
    assert crossed({0: first, 1: second}) == pytest.approx(np.array([[0.3, 0.5], [0.6, 0.7]]))
    assert components(crossed({0: first})) is None and components(crossed({})) is None
    assert components(crossed({0: first, 1: {}})) is None


def test_the_interquartile_mean_leaves_out_the_best_and_worst_quarter():
    values = np.array([[0.0, 0.4], [0.6, 100.0]])
    found, low, high = interquartile_mean(values)
    assert found == pytest.approx(0.5) and low <= found <= high
    assert all(math.isnan(end) for end in interquartile_mean(values[:1])[1:])


def test_two_training_runs_are_no_bounds_of_what_a_third_would_do():
    better, worse = np.repeat([[0.6], [0.4]], 20, 1), np.repeat([[0.5], [0.3]], 20, 1)
    middle, low, high = interquartile_mean(better)
    assert middle == pytest.approx(0.5) and low < 0.3 and high > 0.7  # percentiles of a bootstrap: .4 and .6
    share, low, high = probability_of_improvement(better, worse)
    assert share == 0.75 and (low, high) == (0.0, 1.0)


def test_an_arm_that_is_not_trained_has_no_seeds_to_be_uncertain_of():
    played = np.random.default_rng(0).random((1, 60))
    width = {seeds: np.diff(interquartile_mean(np.repeat(played, seeds, 0))[1:])[0] for seeds in (2, 10)}
    assert width[2] == pytest.approx(width[10], rel=0.1) and 0.1 < width[2] < 0.4


def test_the_probability_of_improvement_by_hand():
    first, second = np.array([[0.5, 0.2], [0.9, 0.2]]), np.array([[0.4, 0.2], [0.6, 0.3]])
    # scenario one: of four pairs .5>.4, .5<.6, .9>.4, .9>.6; scenario two: two ties and two losses
    found, low, high = probability_of_improvement(first, second)
    assert found == pytest.approx((3 / 4 + 2 * 0.5 / 4) / 2) and low <= found <= high
    assert probability_of_improvement(second, first)[0] == pytest.approx(1 - found)


def test_equal_runs_improve_half_of_the_time_and_better_ones_always():
    values = np.random.default_rng(0).random((4, 12))
    found, low, high = probability_of_improvement(values, values)
    assert found == 0.5 and low < 0.5 < high
    assert probability_of_improvement(values + 2, values) == (1.0, 1.0, 1.0)


def test_where_nothing_but_the_rest_varies_the_interval_is_that_of_the_rest():
    values = np.array([[0.0, 0.2, 0.1, 0.3], [0.3, 0.1, 0.2, 0.0]]) + 0.1  # equal means
    found = components(values)
    assert set(found.truncated) == {"between_seeds", "between_scenarios"}
    low, high = found.interval
    assert low < 0 < found.mean < high and found.p_value > 0.05  # and not the mean alone, with p 0
