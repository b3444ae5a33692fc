"""Paired differences, permutation tests, power and Holm: by hand, against libraries, and with a known truth."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode
from statsmodels.stats.multitest import multipletests

from benchmarks.interval_coverage import ALIKE, false_alarms
from emodistill.evaluation.statistics import (
    correct,
    detectable_effect,
    holm,
    paired_difference,
    sign_flip_p,
    utilities,
)


def clustered(rng, scenarios=40, seeds=3, effect=0.0):
    """Utilities around 0.5 that share most of their noise within a scenario, and the scenario of each."""
    shared = rng.normal(0.5 + effect, 0.2, scenarios)
    values = (shared[:, None] + rng.normal(0, 0.1, (scenarios, seeds))).reshape(-1)
    return values, np.repeat(np.arange(scenarios), seeds)


def as_arm(values, scenarios):
    return {("debt", f"s{k:02}", i): float(v) for i, (v, k) in enumerate(zip(values, scenarios, strict=True))}


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


def test_scenarios_with_more_pairs_weigh_more_in_the_test_too():
    """Sums .6, .6 and -.5: of the eight patterns of signs, four are as far from 0 as theirs."""
    pairs = {("debt", name, i): 0.2 for name in "ab" for i in range(3)} | {("debt", "c", 0): -0.5}
    assert paired_difference(pairs, dict.fromkeys(pairs, 0.0)).p_value == 0.5


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
    patterns = [np.dot(detect_injection, differences) for detect_injection in itertools.product((-1, 1), repeat=4)]
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


def test_a_verdict_of_a_table_stands_only_after_its_correction():
    rows = [
        {"p_value": 0.001, "verdict": "exceeds"},
        {"p_value": 0.03, "verdict": "below"},  # alone it would stand
        {"p_value": 0.04, "verdict": "exceeds"},
        {"p_value": math.nan, "verdict": "exceeds"},
        {"p_value": 0.02},
    ]
    correct(rows)
    assert [row.get("verdict") for row in rows] == ["exceeds", "within noise", "within noise", "within noise", None]
    assert [row["p_holm"] for row in rows[:3]] == pytest.approx([0.004, 0.06, 0.06]) and math.isnan(rows[3]["p_holm"])


def test_holm_against_a_library():
    p_values = np.random.default_rng(5).uniform(0, 0.2, 30)
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


@pytest.mark.parametrize("case", sorted(ALIKE))
def test_arms_that_are_alike_are_seldom_told_apart(case):
    """At most 6 % plus three standard errors of so many simulations."""
    runs = 300
    bound = 0.06 + 3 * math.sqrt(0.06 * 0.94 / runs)
    tests, verdicts = false_alarms(case, 10, 2, runs, resamples=400)
    assert tests <= bound and verdicts <= bound


def test_a_test_of_few_scenarios_is_exact_and_cannot_be_small():
    assert sign_flip_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == 2 / 32
    assert sign_flip_p(np.array([0.4])) == 1.0


def test_what_is_called_detectable_is_found_four_times_in_five():
    rng, runs, scenarios = np.random.default_rng(6), 400, 15
    effect = detectable_effect(scenarios)
    assert effect == pytest.approx(0.7782, abs=1e-3)  # tables of the noncentral t (e.g. G*Power)
    drawn = rng.normal(effect, 1.0, (runs, scenarios))
    found = np.mean([sign_flip_p(one, i, flips=500) < 0.05 for i, one in enumerate(drawn)])
    assert abs(found - 0.8) < 3 * math.sqrt(0.8 * 0.2 / runs) + 0.02
    assert math.isnan(detectable_effect(1))


def test_the_smallest_detectable_difference_grows_with_the_spread():
    rng = np.random.default_rng(7)
    first, second = as_arm(rng.normal(0, 1, 12), range(12)), as_arm(np.zeros(12), range(12))
    found = paired_difference(first, second)
    doubled = paired_difference({key: 2 * value for key, value in first.items()}, second)
    assert found.detectable == pytest.approx(np.std(list(first.values()), ddof=1) * detectable_effect(12))
    assert doubled.detectable == pytest.approx(2 * found.detectable)
    assert doubled.effect_size == pytest.approx(found.effect_size)


def test_utilities_are_those_of_valid_episodes():
    deal = replace(make_episode(number=1), end="deal", deal_value=20.0)
    invalid = replace(make_episode(number=2), end="invalid", fault="timeout")
    assert utilities([make_episode(), deal, invalid]) == {("debt", "debt-000", 0): 0.0, ("debt", "debt-001", 0): 1.0}


def test_utilities_of_several_training_seeds_are_averaged():
    deal = replace(make_episode(number=1), end="deal", deal_value=20.0)
    assert utilities([deal, replace(deal, deal_value=91.0)]) == {("debt", "debt-001", 0): 0.5}
