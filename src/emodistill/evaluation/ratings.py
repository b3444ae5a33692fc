"""Bradley-Terry ratings of arms that met each other, and their payoff matrix, for the tournament.

P(i wins against j) = 1 / (1 + exp(r_j - r_i)), ratings summing to 0 (Bradley and Terry 1952, Biometrika 39). A win is
the higher own utility in a negotiation, whichever chair the arm sat on; equal utilities are half a win for each. An arm
that always wins has no finite maximum of likelihood: every pair of arms therefore starts with half a win on either
side, which pulls all ratings a little together. Notation for shapes: P arms, S scenarios, B resamples.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emodistill.evaluation.statistics import RESAMPLES, bootstrap_interval, stretched

PRIOR = 0.5  # of a win, against everyone


@dataclass(frozen=True)
class Meeting:
    """One negotiation between two arms; utilities are each side's own, in [0, 1], both 0 without a deal."""

    focal: str
    counterparty: str
    scenario: Hashable
    focal_utility: float
    counterparty_utility: float

    @property
    def score(self) -> float:
        """1 if the focal arm has won, 0 if the other, 0.5 if neither."""
        return (1.0 + float(np.sign(self.focal_utility - self.counterparty_utility))) / 2


@dataclass(frozen=True)
class Rating:
    """One arm's rating on the scale of log odds; 0 is the mean of all arms.

    Attributes:
        standard_error: of the model, as if meetings were independent.
        low, high: 95 % interval, resampling scenarios; nan for a single scenario.
        wins: ties count half.
    """

    arm: str
    rating: float
    standard_error: float
    low: float
    high: float
    wins: float
    meetings: int


def bradley_terry(meetings: Sequence[Meeting], seed: int = 0, resamples: int = RESAMPLES) -> list[Rating]:
    """Ratings, best first; meetings of an arm with itself say nothing and are left out."""
    counted = [one for one in meetings if one.focal != one.counterparty]
    arms = sorted({name for one in counted for name in (one.focal, one.counterparty)})
    if not arms:
        return []
    wins = _wins(counted, arms)  # (S, P, P)
    total = wins.sum(0)
    ratings, covariance = fit(total + PRIOR * (1 - np.eye(len(arms))))
    low, high = _intervals(wins, ratings, seed, resamples)
    won, played = total.sum(1), (total + total.T).sum(1)
    errors = np.sqrt(np.diag(covariance))
    found = [
        Rating(arm, float(r), float(error), float(bottom), float(top), float(w), round(float(n)))
        for arm, r, error, bottom, top, w, n in zip(arms, ratings, errors, low, high, won, played, strict=True)
    ]
    return sorted(found, key=lambda one: -one.rating)


def _wins(meetings: Sequence[Meeting], arms: Sequence[str]) -> np.ndarray:
    """How often each arm won against each other in each scenario; (S, P, P)."""
    scenarios = {one: i for i, one in enumerate(dict.fromkeys(meeting.scenario for meeting in meetings))}
    index = {arm: i for i, arm in enumerate(arms)}
    wins = np.zeros((len(scenarios), len(arms), len(arms)))
    for one in meetings:
        i, j, scenario = index[one.focal], index[one.counterparty], scenarios[one.scenario]
        wins[scenario, i, j] += one.score
        wins[scenario, j, i] += 1 - one.score
    return wins


def fit(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ratings and their covariance; (P, P) wins of row against column -> (P,), (P, P).

    Every pair that met must have wins on both sides in some chain of pairs, or there is no maximum: add a prior.
    """
    ratings = fit_many(wins[None], np.zeros(len(wins)))[0]
    chance = 1 / (1 + np.exp(ratings[None, :] - ratings[:, None]))  # (P, P)
    weight = (wins + wins.T) * chance * (1 - chance)
    return ratings, np.linalg.pinv(np.diag(weight.sum(1)) - weight)  # of the information, under "sum 0"


def _intervals(wins: np.ndarray, ratings: np.ndarray, seed: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the intervals over scenarios; (S, P, P), (P,) -> two of (P,)."""
    scenarios, count = wins.shape[0], wins.shape[1]
    if scenarios < 2:
        return np.full(count, np.nan), np.full(count, np.nan)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(scenarios, np.full(scenarios, 1 / scenarios), size=resamples)  # (B, S)
    drawn = np.tensordot(weights, wins, 1) + PRIOR * (1 - np.eye(count))  # (B, P, P)
    low, high = stretched(fit_many(drawn, ratings).T, ratings, scenarios, symmetric=True)
    return low, high


def fit_many(wins: np.ndarray, start: np.ndarray, steps: int = 50, tolerance: float = 1e-6) -> np.ndarray:
    """Ratings of many tables at once by Newton's method with steps of at most 1; (B, P, P), (P,) -> (B, P)."""
    games = wins + wins.swapaxes(1, 2)
    won = wins.sum(2)
    ratings = np.tile(start, (len(wins), 1))
    for _ in range(steps):
        chance = 1 / (1 + np.exp(ratings[:, None, :] - ratings[:, :, None]))  # (B, P, P)
        slope = won - (games * chance).sum(2)
        weight = games * chance * (1 - chance)
        curvature = np.eye(wins.shape[1]) * weight.sum(2)[:, :, None] - weight + 1 / wins.shape[1]
        step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        step /= np.maximum(np.abs(step).max(1, keepdims=True), 1.0)
        ratings += step
        if np.abs(step).max() < tolerance:
            break
    centred: np.ndarray = ratings - ratings.mean(1, keepdims=True)
    return centred


def payoffs(meetings: Sequence[Meeting], seed: int = 0) -> list[dict[str, Any]]:
    """Mean own utility of each arm (`arm`) against each other (`against`), over both chairs, clustered by scenario."""
    cells: dict[tuple[str, str], list[tuple[float, Hashable]]] = {}
    for one in meetings:
        cells.setdefault((one.focal, one.counterparty), []).append((one.focal_utility, one.scenario))
        cells.setdefault((one.counterparty, one.focal), []).append((one.counterparty_utility, one.scenario))
    rows = []
    for (arm, against), found in sorted(cells.items()):
        values, scenarios = [value for value, _ in found], [scenario for _, scenario in found]
        low, high = bootstrap_interval(values, scenarios, seed, unseen=0.0)
        about = {"arm": arm, "against": against, "utility": float(np.mean(values)), "low": low, "high": high}
        played = len(values) // (1 + (arm == against))  # one against itself has the utilities of both chairs
        rows.append({**about, "meetings": played, "scenarios": len(set(scenarios))})
    return rows
