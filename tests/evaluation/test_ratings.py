"""Bradley-Terry: closed form for two, a library for many, arms that always win, and payoffs of both chairs."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from emodistill.evaluation.ratings import PRIOR, Meeting, bradley_terry, fit, fit_many, payoffs

RATINGS = {"a": 0.8, "b": 0.1, "c": -0.9}


def met(first, second, wins, losses, ties=0, scenario="s"):
    scores = [(1, 0)] * wins + [(0, 1)] * losses + [(0.5, 0.5)] * ties
    return [Meeting(first, second, f"{scenario}{i}", *score) for i, score in enumerate(scores)]


def simulated(rng, scenarios=60):
    found = []
    for scenario in range(scenarios):
        for first in RATINGS:
            for second in (name for name in RATINGS if name != first):
                won = rng.random() < 1 / (1 + math.exp(RATINGS[second] - RATINGS[first]))
                found.append(Meeting(first, second, scenario, float(won), 1.0 - won))
    return found


def test_two_arms_in_closed_form():
    best, other = bradley_terry(met("a", "b", 6, 2, ties=2))
    odds = math.log((7 + PRIOR) / (3 + PRIOR))  # ties are half a win for each
    assert (best.arm, best.wins, best.meetings) == ("a", 7.0, 10)
    assert best.rating == pytest.approx(odds / 2) and other.rating == pytest.approx(-odds / 2)
    assert best.standard_error == pytest.approx(math.sqrt(1 / 7.5 + 1 / 3.5) / 2)


def test_ratings_and_errors_against_a_library():
    """Logistic regression on who met whom, the first arm at 0, brought to the sum 0 of ours."""
    wins = np.array([[0, 7.5, 9, 4], [2.5, 0, 6.5, 3], [1, 3.5, 0, 2.5], [6, 2, 0.5, 0]])
    pairs = [(i, j) for i in range(4) for j in range(i)]
    design = np.array([np.eye(4)[i] - np.eye(4)[j] for i, j in pairs])[:, 1:]
    scores = np.array([[wins[i, j], wins[j, i]] for i, j in pairs])
    found = sm.GLM(scores, design, family=sm.families.Binomial()).fit(tol=1e-12)
    centre = (np.eye(4) - 1 / 4)[:, 1:]
    ratings, covariance = fit(wins)
    assert ratings == pytest.approx(centre @ found.params, abs=1e-6)
    assert covariance == pytest.approx(centre @ found.cov_params() @ centre.T, abs=1e-5)


def test_many_tables_are_fitted_at_once():
    wins = np.array([[0, 7.5, 9], [2.5, 0, 6.5], [1, 3.5, 0]])
    many = fit_many(np.stack([wins, wins.T]), np.zeros(3))
    assert many[1] == pytest.approx(-many[0], abs=1e-6)
    expected = 1 / (1 + np.exp(many[0][None, :] - many[0][:, None]))
    assert ((wins + wins.T) * expected).sum(1) == pytest.approx(wins.sum(1))  # the equations of the likelihood


def test_known_ratings_are_found_and_intervals_hold_them():
    held = total = 0
    for seed in range(40):
        for one in bradley_terry(simulated(np.random.default_rng(seed)), seed, resamples=300):
            assert one.rating == pytest.approx(RATINGS[one.arm], abs=0.75)
            held += one.low <= RATINGS[one.arm] <= one.high
            total += 1
    assert held / total >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 40)


def test_an_arm_that_always_wins_has_a_finite_rating():
    best, *_ = bradley_terry(met("a", "b", 20, 0) + met("b", "c", 10, 10) + met("c", "a", 0, 20))
    assert best.arm == "a" and 1 < best.rating < 6
    assert all(map(math.isfinite, (best.standard_error, best.low, best.high)))


def test_chairs_do_not_matter_and_ratings_sum_to_0():
    meetings = simulated(np.random.default_rng(3), 20)
    turned = [Meeting(m.counterparty, m.focal, m.scenario, m.counterparty_utility, m.focal_utility) for m in meetings]
    here, there = bradley_terry(meetings, resamples=100), bradley_terry(turned, resamples=100)
    assert [(a.arm, a.rating) for a in here] == [(a.arm, pytest.approx(a.rating)) for a in there]
    assert sum(one.rating for one in here) == pytest.approx(0, abs=1e-9)


def test_one_scenario_has_no_interval_and_nobody_no_rating():
    single = [Meeting("a", "b", "only", 0.7, 0.3), Meeting("b", "a", "only", 0.2, 0.8)]
    assert all(math.isnan(one.low) and math.isnan(one.high) for one in bradley_terry(single))
    assert bradley_terry([]) == [] == bradley_terry([Meeting("a", "a", "s", 0.5, 0.4)])


def test_payoffs_are_own_utilities_on_both_chairs():
    meetings = [Meeting("a", "b", "s", 0.7, 0.3), Meeting("b", "a", "t", 0.2, 0.8), Meeting("a", "a", "s", 0.6, 0.4)]
    rows = {(row["arm"], row["against"]): row for row in payoffs(meetings)}
    assert rows["a", "b"]["utility"] == pytest.approx(0.75) and rows["b", "a"]["utility"] == pytest.approx(0.25)
    assert rows["a", "a"]["utility"] == pytest.approx(0.5)
    assert (rows["a", "b"]["meetings"], rows["a", "b"]["scenarios"]) == (2, 2) and rows["a", "a"]["meetings"] == 1
    assert all(0 <= row["low"] <= row["utility"] <= row["high"] <= 1 for row in rows.values())
