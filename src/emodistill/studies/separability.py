"""Is the selector still right once somebody else speaks for it? Its Q-values against what turns really returned.

Q was learnt from the words of the corpus's teacher. If choosing and saying can be learnt apart, Q must still order the
turns of episodes that a trained policy has spoken, and fitted Q evaluation on them must agree with their mean return.
Returns are in the reward that the selector was trained with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from emodistill.data.schema import Episode
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.intervals import UNKNOWN, Interval, bootstrap_interval
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.results import Findings, Played
from emodistill.learners.selector import load_selector
from emodistill.reporting.figures.curves import Bin, calibration
from emodistill.reporting.table import Column, Table
from emodistill.studies.realised import Turns, fitted_value, realised, trained_with

BINS = 5
RESAMPLES = 2000  # rank correlations have no closed form to resample
_COLUMNS = [
    Column("arm", "arm", "text"),
    Column("condition", "condition", "text"),
    Column("turns", "turns", "count"),
    Column("scenarios", "scenarios", "count"),
    Column("correlation", "rank correlation [95 %]", "interval"),
    Column("bias", "predicted less realised [95 %]", "interval"),
    Column("fitted_q", "fitted Q evaluation"),
    Column("returned", "mean return [95 %]", "interval"),
]
_RULE = (
    "The rule, fixed before the numbers: Q still orders an arm's turns where the rank correlation with the realised "
    "return has an interval above 0; it is calibrated where the interval of the bias holds 0."
)
_NOTE = (
    "In the selector's reward, discounted per turn; intervals by resampling scenarios. The fitted value is of the "
    "selector's own (greedy) policy, learnt on the arm's episodes; where an arm shows other emotions it is no estimate "
    "of that arm's return. Q is of the behaviour that the selector improves on, not exactly of the greedy policy."
)


@dataclass(frozen=True)
class Separability:
    """Calibration of Q for every arm that shows emotions.

    Attributes:
        vocabulary: its name.
    """

    vocabulary: str
    seed: int = 0

    def __call__(self, played: Sequence[Played]) -> Findings:
        rows, bins = [], []
        for one in played:
            episodes = [episode for episode in valid(one.episodes) if shows_emotions(episode)]
            checkpoint = Path(one.run_dir) / "iql" / "best.ckpt"
            if not episodes or not checkpoint.is_file():
                continue
            selector = load_selector(str(checkpoint), load_vocabulary(self.vocabulary))
            reward, discount = trained_with(Path(one.run_dir))
            turns = realised(episodes, selector, reward, discount)
            row = {"arm": one.arm, "condition": one.condition, "training_seed": one.training_seed}
            rows.append({**row, **self._row(turns), "fitted_q": fitted_value(turns, selector, discount)})
            label = f"{one.arm}, {one.condition}" if one.condition else one.arm
            bins += binned(turns, label, self.seed)
        table = Table("separability", "Q of the selector against what came of it", _COLUMNS, rows, _NOTE)
        if not rows:
            return Findings([table], verdicts=["no arm of this study shows emotions of a selector that can be loaded"])
        figure = calibration("q_calibration", "Predicted and realised return of turns", bins, "discounted reward")
        return Findings([table], [figure], [_RULE, *(_verdict(row) for row in rows)])

    def _row(self, turns: Turns) -> dict[str, Any]:
        rho = rank_correlation(turns.predicted, turns.realised)
        apart = turns.predicted - turns.realised
        first = turns.step == 0
        returned = turns.realised[first]
        first_scenarios = [s for s, is_first in zip(turns.scenarios, first, strict=True) if is_first]
        return {
            "turns": len(apart),
            "scenarios": len(set(turns.scenarios)),
            "correlation": [rho, *correlation_interval(turns, self.seed)],
            "bias": [float(apart.mean()), *bootstrap_interval(apart, turns.scenarios, self.seed)],
            "returned": [float(returned.mean()), *bootstrap_interval(returned, first_scenarios, self.seed)],
        }


def shows_emotions(episode: Episode) -> bool:
    return any(turn.emotion is not None for turn in episode.focal_turns)


def rank_correlation(predicted: np.ndarray, realised: np.ndarray) -> float:
    """Spearman's rho; nan where one of the two does not vary."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(realised) == 0:
        return float("nan")
    return float(stats.spearmanr(predicted, realised).statistic)


def correlation_interval(turns: Turns, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """95 % percentile interval of the rank correlation, resampling whole scenarios."""
    groups: dict[Any, list[int]] = {}
    for i, scenario in enumerate(turns.scenarios):
        groups.setdefault(scenario, []).append(i)
    if len(groups) < 2:
        return UNKNOWN
    members, rng = [np.array(group) for group in groups.values()], np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        rows = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        found.append(rank_correlation(turns.predicted[rows], turns.realised[rows]))
    known = np.array(found)[np.isfinite(found)]
    if not len(known):
        return UNKNOWN
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def binned(turns: Turns, label: str, seed: int = 0, bins: int = BINS) -> list[Bin]:
    """Equally many turns a bin, by predicted return."""
    found = []
    for rows in np.array_split(np.argsort(turns.predicted, kind="stable"), min(bins, len(turns.predicted))):
        values = turns.realised[rows]
        low, high = bootstrap_interval(values, [turns.scenarios[i] for i in rows], seed)
        found.append(Bin(label, float(turns.predicted[rows].mean()), float(values.mean()), low, high))
    return found


def _verdict(row: dict[str, Any]) -> str:
    rho, low, high = row["correlation"]
    ordered = "still orders turns" if low > 0 else "does not order turns beyond chance"
    bias, bottom, top = row["bias"]
    right = (
        "calibrated"
        if bottom <= 0 <= top
        else f"{'above' if bias > 0 else 'below'} what is realised by {abs(bias):.2f}"
    )
    where = f"{row['arm']}, {row['condition']}" if row["condition"] else row["arm"]
    gap = f"fitted Q evaluation {row['fitted_q']:.2f} against a mean return of {row['returned'][0]:.2f}"
    return f"{where}: Q {ordered} (rho {rho:.2f} [{low:.2f}, {high:.2f}]) and is {right}; {gap}."
