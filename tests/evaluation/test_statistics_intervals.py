"""Intervals over scenarios: against simulations with a known truth, all resamples by hand, and their bounds."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.interval_coverage import MEANS, coverage, normal
from emodistill.evaluation.statistics import bootstrap_interval

RUNS = 300


@pytest.mark.parametrize("case", sorted(MEANS))
@pytest.mark.parametrize("scenarios", [8, 20])
def test_the_interval_holds_the_truth_as_often_as_it_says(case, scenarios):
    """At least 93 % less three standard errors; at most 97 % more than three, where failures are not rare."""
    held = coverage(case, scenarios, 3, RUNS, resamples=400)
    assert held >= 0.93 - 3 * math.sqrt(0.93 * 0.07 / RUNS)
    if "utility" not in case:
        assert held <= 0.97 + 3 * math.sqrt(0.97 * 0.03 / RUNS)


def test_a_plain_percentile_interval_would_not():
    """Power of the test above: five normal scenarios, 84 % where 95 % is said."""
    rng, held = np.random.default_rng(0), 0
    for i in range(RUNS):
        found = stats.bootstrap((rng.normal(size=5),), np.mean, method="percentile", n_resamples=400, rng=i)
        held += found.confidence_interval.low <= 0 <= found.confidence_interval.high
    assert held / RUNS < 0.9 < coverage("normal", 5, 1, RUNS, resamples=400)


def test_normal_data_give_nearly_the_interval_of_the_t_distribution():
    values = np.random.default_rng(1).normal(size=40)
    exact = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    assert bootstrap_interval(values, range(40)) == pytest.approx(exact, abs=0.02)


def test_episodes_of_one_scenario_are_no_independent_evidence():
    """Ten copies of every episode tell nothing new: the interval stays as wide."""
    values = normal(np.random.default_rng(1), 40, 1).ravel()
    once = bootstrap_interval(values, range(40))
    assert bootstrap_interval(np.repeat(values, 10), np.repeat(range(40), 10)) == pytest.approx(once)
    pooled = bootstrap_interval(np.repeat(values, 10), range(400))
    assert pooled[1] - pooled[0] < 0.5 * (once[1] - once[0])


def test_an_interval_against_all_resamples_by_hand():
    values = np.array([0.1, 0.4, 0.9, 0.5])
    away = np.array([np.mean(draw) for draw in itertools.product(values, repeat=4)]) - values.mean()
    factor = stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975) * math.sqrt(4 / 3)
    width = factor * np.quantile(np.abs(away), 0.95)
    found = bootstrap_interval(values, ["a", "b", "c", "d"], resamples=20_000)
    assert found == pytest.approx((0.475 - width, 0.475 + width), abs=0.03)


def test_scenarios_with_more_episodes_weigh_more():
    values, scenarios = [1.0] * 30 + [0.0] * 10, [f"a{i % 10}" for i in range(30)] + [f"b{i}" for i in range(10)]
    low, high = bootstrap_interval(values, scenarios)
    assert (low + high) / 2 == pytest.approx(0.75)  # of episodes; of scenarios it would be 0.5


def test_what_was_not_seen_is_not_ruled_out():
    always = bootstrap_interval([0.6] * 5, range(5), unseen=0.0)
    assert always[0] < 0.4 and 0.6 <= always[1] <= 1
    more = bootstrap_interval([0.6] * 50, range(50), unseen=0.0)
    assert always[0] < more[0] < 0.6 <= more[1]
    assert bootstrap_interval([0.6] * 5, range(5)) == pytest.approx((0.6, 0.6))
    never = bootstrap_interval([0.0] * 20, range(20), unseen=1.0)
    assert never[0] == 0.0 and 0.03 < never[1] < 0.2
    assert bootstrap_interval([0.7], ["a"], unseen=0.0) == (0.0, 1.0)


@pytest.mark.parametrize("scenarios", [1, 4, 20, 80])
def test_no_deal_in_so_many_scenarios_does_not_show_that_there_are_none(scenarios):
    low, high = bootstrap_interval([0.0] * 2 * scenarios, [i % scenarios for i in range(2 * scenarios)], unseen=0.0)
    assert low == 0 and (1 - high) ** scenarios == pytest.approx(0.025)  # as rare as that at the high end


def test_shares_read_their_two_tails_apart_and_differences_do_not():
    values = [0.6] * 11
    low, high = bootstrap_interval(values, range(11), unseen=0.0)
    middle = np.mean([*values, 0.0])
    assert middle - low > 1.1 * (high - middle)  # skewed to the failures
    low, high = bootstrap_interval([*values, 0.0], range(12))
    assert middle - low == pytest.approx(high - middle)


def test_the_ends_of_shares_stay_within_0_and_1():
    low, high = bootstrap_interval([1.0, 0.0, 1.0], range(3), unseen=0.0)
    assert 0 <= low < high <= 1
    assert bootstrap_interval([1.0, 0.0, 1.0], range(3))[1] > 1  # a difference has no such ends


def test_intervals_are_fixed_by_their_seed_and_unknown_ones_are_nan():
    values = normal(np.random.default_rng(2), 10, 1).ravel()
    assert bootstrap_interval(values, range(10), 3) == bootstrap_interval(values, range(10), 3)
    assert bootstrap_interval(values, range(10), 3) != bootstrap_interval(values, range(10), 4)
    assert all(map(math.isnan, bootstrap_interval([], [])))
    assert all(map(math.isnan, bootstrap_interval([], [], unseen=0.0)))
    assert all(map(math.isnan, bootstrap_interval([0.5, 0.7], ["a", "a"])))
