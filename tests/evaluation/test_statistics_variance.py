"""Variance components: known ones from simulations, by hand, and the interval of both sources."""

import math

import numpy as np
import pytest

from benchmarks.interval_coverage import seed_spread
from emodistill.evaluation.statistics import components, crossed


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


def test_crossed_keeps_scenarios_that_all_seeds_played():
    first = {("debt", "a", 0): 0.2, ("debt", "a", 1): 0.4, ("debt", "b", 0): 1.0, ("student", "a", 0): 0.5}
    second = {("debt", "a", 0): 0.6, ("student", "a", 0): 0.7}
    assert crossed({0: first, 1: second}) == pytest.approx(np.array([[0.3, 0.5], [0.6, 0.7]]))
    assert components(crossed({0: first})) is None and components(crossed({})) is None
    assert components(crossed({0: first, 1: {}})) is None
