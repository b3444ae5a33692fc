"""How often 95 % intervals hold the truth and how often equal arms are told apart, on simulated data of known truth.

    python benchmarks/interval_coverage.py [--simulations 2000] [--resamples 2000] [--scenarios 5 8 10 20 40]

Every number comes from the functions that evaluations call. Utilities are 0 for a share of failed negotiations and
about 0.57 for the rest; the failures of a scenario's episodes are correlated, as are those of two arms in it.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from emodistill.evaluation.statistics import (
    bootstrap_interval,
    components,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
)

DEAL, SHARED = 0.57, 0.6  # mean utility of a deal; share of variance that episodes of one scenario have in common
Draw = Callable[[np.random.Generator, int, int], np.ndarray]  # rng, scenarios, episodes -> (scenarios, episodes)


def normal(rng: np.random.Generator, scenarios: int, episodes: int) -> np.ndarray:
    """Utilities around 0.5 that share most of their spread within a scenario."""
    return 0.5 + rng.normal(0, 0.2, (scenarios, 1)) + rng.normal(0, 0.1, (scenarios, episodes))


def utility(failing: float) -> Draw:
    """Utilities with a point mass at 0 of this size, and a mean of (1 - failing) x 0.57."""
    return lambda rng, scenarios, episodes: _utility(failing, rng, rng.normal(size=(scenarios, 1)), episodes)


def _utility(failing: float, rng: np.random.Generator, hard: np.ndarray, episodes: int) -> np.ndarray:
    shape = (len(hard), episodes)
    ease = np.sqrt(SHARED) * hard + np.sqrt(1 - SHARED) * rng.normal(size=shape)
    deals = DEAL + rng.normal(0, 0.05, (len(hard), 1)) + rng.normal(0, 0.05, shape)
    return (ease > stats.norm.ppf(failing)) * deals


def difference(first: float, second: float) -> Draw:
    """Paired differences of two arms that fail that often, in scenarios that are hard for both."""

    def draw(rng: np.random.Generator, scenarios: int, episodes: int) -> np.ndarray:
        hard = rng.normal(size=(scenarios, 1))
        return _utility(first, rng, hard, episodes) - _utility(second, rng, hard, episodes)

    return draw


MEANS: dict[str, tuple[Draw, float, float | None]] = {  # how to draw, the true mean, `unseen`
    "normal": (normal, 0.5, None),
    "utility, 10 % fail": (utility(0.1), 0.9 * DEAL, 0.0),
    "utility, 30 % fail": (utility(0.3), 0.7 * DEAL, 0.0),
    "utility, 50 % fail": (utility(0.5), 0.5 * DEAL, 0.0),
    "difference, 40 % - 10 %": (difference(0.4, 0.1), -0.3 * DEAL, None),
    "difference, 50 % - 3 %": (difference(0.5, 0.03), -0.47 * DEAL, None),
}
ALIKE = {
    "normal": lambda rng, s, e: normal(rng, s, e) - 0.5,
    "3 % fail": difference(0.03, 0.03),
    "10 % fail": difference(0.1, 0.1),
    "30 % fail": difference(0.3, 0.3),
}


def coverage(case: str, scenarios: int, episodes: int, simulations: int, resamples: int, seed: int = 0) -> float:
    """Share of intervals that hold the truth."""
    draw, truth, unseen = MEANS[case]
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(scenarios), episodes)
    held = 0
    for i in range(simulations):
        low, high = bootstrap_interval(draw(rng, scenarios, episodes).ravel(), labels, i, resamples, unseen)
        held += low - 1e-9 <= truth <= high + 1e-9
    return held / simulations


def false_alarms(
    case: str, scenarios: int, episodes: int, simulations: int, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """Two arms that are alike: share of p below .05, and of verdicts other than "within noise"."""
    rng = np.random.default_rng(seed)
    keys = [("debt", str(i), k) for i in range(scenarios) for k in range(episodes)]
    nothing = dict.fromkeys(keys, 0.0)
    tests = verdicts = 0
    for i in range(simulations):
        drawn = ALIKE[case](rng, scenarios, episodes).ravel().tolist()
        found = paired_difference(dict(zip(keys, drawn, strict=True)), nothing, i, resamples)
        tests += found.p_value <= 0.05
        verdicts += found.verdict != "within noise"
    return tests / simulations, verdicts / simulations


def crossed(rng: np.random.Generator, seeds: int, hard: np.ndarray) -> np.ndarray:
    """Utilities of training seeds in scenarios: crossed effects of 0.1, 0.2 (`hard`) and 0.15."""
    return 0.5 + rng.normal(0, 0.1, (seeds, 1)) + hard + rng.normal(0, 0.15, (seeds, len(hard)))


def seed_spread(seeds: int, scenarios: int, simulations: int, seed: int = 0) -> tuple[float, float, float, float]:
    """Root mean variance found of each effect, and coverage of the interval of both sources."""
    rng = np.random.default_rng(seed)
    variances, held = np.zeros(3), 0
    for _ in range(simulations):
        found = components(crossed(rng, seeds, rng.normal(0, 0.2, scenarios)))
        assert found is not None
        variances += np.square([found.between_seeds, found.between_scenarios, found.rest])
        held += found.interval[0] <= 0.5 <= found.interval[1]
    return (*np.sqrt(variances / simulations).tolist(), held / simulations)


def robust_figures(seeds: int, scenarios: int, simulations: int, seed: int = 0) -> tuple[float, float]:
    """Coverage of the interquartile mean, 0.5 here, and of the probability of improvement of two equal arms."""
    rng, held = np.random.default_rng(seed), np.zeros(2)
    for i in range(simulations):
        hard = rng.normal(0, 0.2, scenarios)
        first, second = crossed(rng, seeds, hard), crossed(rng, seeds, hard)
        found = interquartile_mean(first, i), probability_of_improvement(first, second, i)
        held += [low <= 0.5 <= high for _, low, high in found]
    middle, better = (held / simulations).tolist()
    return middle, better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--scenarios", type=int, nargs="+", default=[5, 8, 10, 20, 40])
    parser.add_argument("--episodes", type=int, nargs="+", default=[1, 2, 3], help="a scenario")
    arguments = parser.parse_args()
    runs, started = arguments.simulations, time.perf_counter()
    head = " | ".join(f"{count} scenarios" for count in arguments.scenarios)
    print(f"| 95 % interval holds the truth, % | episodes | {head} |")
    print("|---|" + "---|" * (1 + len(arguments.scenarios)))
    for case in MEANS:
        for episodes in arguments.episodes:
            found = [coverage(case, count, episodes, runs, arguments.resamples) for count in arguments.scenarios]
            print(f"| {case} | {episodes} | " + " | ".join(f"{100 * share:.1f}" for share in found) + " |", flush=True)
    print(f"\n| equal arms: p <= .05 / verdict, % | episodes | {head} |")
    print("|---|" + "---|" * (1 + len(arguments.scenarios)))
    for case in ALIKE:
        for episodes in arguments.episodes:
            pairs = [false_alarms(case, count, episodes, runs, arguments.resamples) for count in arguments.scenarios]
            print(f"| {case} | {episodes} | " + " | ".join(f"{100 * p:.1f} / {100 * v:.1f}" for p, v in pairs) + " |")
    print("\n| training seeds | scenarios | sd of seeds (.100) | of scenarios (.200) | of the rest (.150) | holds, % |")
    print("|---|---|---|---|---|---|")
    for seeds in (2, 3, 5):
        for count in arguments.scenarios:
            *spread, held = seed_spread(seeds, count, runs)
            print(f"| {seeds} | {count} | " + " | ".join(f"{sd:.3f}" for sd in spread) + f" | {100 * held:.1f} |")
    few = min(runs, 200)  # each resamples 2,000 times, in Python
    print("\n| training seeds | scenarios | interquartile mean, % | probability of improvement, % | simulations |")
    print("|---|---|---|---|---|")
    for seeds in (2, 3, 5, 10):
        middle, better = robust_figures(seeds, arguments.scenarios[-1], few)
        print(f"| {seeds} | {arguments.scenarios[-1]} | {100 * middle:.1f} | {100 * better:.1f} | {few} |", flush=True)
    error = 100 * np.sqrt(0.95 * 0.05 / runs)
    print(f"\n{runs} simulations a number (standard error {error:.1f} points), {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
