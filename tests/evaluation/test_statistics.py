"""Intervals, paired differences and corrections: against hand values, and against simulations with a known truth."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode

from emodistill.evaluation.statistics import bootstrap_interval, holm, paired_difference, sign_flip_p, utilities


def clustered(rng, scenarios=40, seeds=3, effect=0.0):
    """Utilities around 0.5 that share most of their noise within a scenario, and the scenario of each."""
    shared = rng.normal(0.5 + effect, 0.2, scenarios)
    values = (shared[:, None] + rng.normal(0, 0.1, (scenarios, seeds))).reshape(-1)
    return values, np.repeat(np.arange(scenarios), seeds)


def as_arm(values, scenarios):
    return {("debt", f"s{k:02}", i): float(v) for i, (v, k) in enumerate(zip(values, scenarios, strict=True))}


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [low <= 0.5 <= high for low, high in (interval_of(rng) for _ in range(1500))]
    assert 0.925 <= np.mean(covered) <= 0.97


def interval_of(rng):
    values, scenarios = clustered(rng)
    return bootstrap_interval(values, scenarios, seed=int(rng.integers(2**31)), resamples=500)


def test_episodes_of_one_scenario_are_no_independent_evidence():
    """Ten copies of every episode tell nothing new: the interval stays as wide."""
    values, scenarios = clustered(np.random.default_rng(1), seeds=1)
    once = bootstrap_interval(values, scenarios)
    assert bootstrap_interval(np.repeat(values, 10), np.repeat(scenarios, 10)) == pytest.approx(once)
    pooled = bootstrap_interval(np.repeat(values, 10), range(10 * len(values)))
    assert pooled[1] - pooled[0] < 0.5 * (once[1] - once[0])


def test_an_interval_against_all_resamples_by_hand():
    values = np.array([0.1, 0.4, 0.9, 0.5])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    found = bootstrap_interval(values, ["a", "b", "c", "d"], resamples=20_000)
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_scenarios_with_more_episodes_weigh_more():
    low, high = bootstrap_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert (low, high) == (0.0, 1.0)
    middle = bootstrap_interval(
        [1.0] * 30 + [0.0] * 10, [f"a{i % 10}" for i in range(30)] + [f"b{i}" for i in range(10)]
    )
    assert middle[0] < 0.75 < middle[1] and middle[0] > 0.5


def test_intervals_are_fixed_by_their_seed_and_empty_ones_are_nan():
    values, scenarios = clustered(np.random.default_rng(2))
    assert bootstrap_interval(values, scenarios, 3) == bootstrap_interval(values, scenarios, 3)
    assert bootstrap_interval(values, scenarios, 3) != bootstrap_interval(values, scenarios, 4)
    assert all(map(math.isnan, bootstrap_interval([], [])))


def test_arms_that_are_alike_are_seldom_told_apart():
    rng = np.random.default_rng(3)
    found, small, trials = 0, 0, 600
    for seed in range(trials):
        differences = rng.normal(0, 0.1, (40, 3)) + rng.normal(0, 0.1, (40, 1))
        low, high = bootstrap_interval(differences.reshape(-1), np.repeat(np.arange(40), 3), seed, resamples=400)
        found += not low <= 0 <= high
        small += sign_flip_p(differences.mean(1), seed, flips=400) < 0.05
    assert found / trials <= 0.075
    assert 0.03 <= small / trials <= 0.065


def test_a_planted_difference_is_found_and_has_a_sign():
    rng = np.random.default_rng(4)
    shared, scenarios = clustered(rng)
    better = as_arm(shared + 0.1 + rng.normal(0, 0.1, len(shared)), scenarios)
    worse = as_arm(shared, scenarios)
    found = paired_difference(better, worse)
    assert found.verdict == "exceeds" and found.p_value < 0.01 and found.mean == pytest.approx(0.1, abs=0.03)
    back = paired_difference(worse, better)
    assert back.verdict == "below" and back.mean == pytest.approx(-found.mean)


def test_a_paired_difference_by_hand():
    first = {("debt", "a", 0): 0.5, ("debt", "a", 1): 0.7, ("debt", "b", 0): 0.9, ("debt", "c", 0): 1.0}
    second = {("debt", "a", 0): 0.4, ("debt", "a", 1): 0.4, ("debt", "b", 0): 0.5, ("student", "c", 0): 0.0}
    found = paired_difference(first, second)
    assert found.pairs == 3 and found.scenarios == 2
    assert found.mean == pytest.approx((0.1 + 0.3 + 0.4) / 3)
    means = np.array([0.2, 0.4])  # of scenarios
    assert found.effect_size == pytest.approx(means.mean() / means.std(ddof=1))
    assert found.p_value == pytest.approx(0.5, abs=0.02)  # ++ and -- of the four sign patterns


def test_scenarios_of_one_name_in_two_domains_are_two():
    pairs = {(domain, "000", 0): 1.0 for domain in ("debt", "student")}
    assert paired_difference(pairs, dict.fromkeys(pairs, 0.0)).scenarios == 2


def test_one_scenario_decides_nothing_and_no_pair_is_nan():
    one = paired_difference({("debt", "a", 0): 0.9}, {("debt", "a", 0): 0.1})
    assert one.verdict == "within noise" and one.mean == pytest.approx(0.8) and math.isnan(one.effect_size)
    none = paired_difference({("debt", "a", 0): 0.9}, {("debt", "b", 0): 0.1})
    assert none.pairs == 0 and math.isnan(none.mean) and none.verdict == "within noise"


def test_sign_flips_against_all_patterns_by_hand():
    differences = np.array([0.3, 0.2, -0.1, 0.4])
    patterns = [np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=4)]
    exact = np.mean([abs(total) >= differences.sum() - 1e-12 for total in patterns])
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.02)
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert 0 < sign_flip_p(np.full(30, 1.0)) < 0.001  # never 0: finitely many patterns were tried


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []
    assert holm([math.nan, 0.02, 0.01])[1:] == [0.02, 0.02]  # what could not be tested is not in the family
    assert math.isnan(holm([math.nan, 0.02])[0])


def test_utilities_are_those_of_valid_episodes():
    deal = replace(make_episode(number=1), end="deal", deal_value=20.0)
    invalid = replace(make_episode(number=2), end="invalid", fault="timeout")
    assert utilities([make_episode(), deal, invalid]) == {("debt", "debt-000", 0): 0.0, ("debt", "debt-001", 0): 1.0}
