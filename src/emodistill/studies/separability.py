"""Is the selector still right once somebody else speaks for it? Its Q-values against what turns really returned.

Q was learnt from the words of the corpus's teacher. If choosing and saying can be learnt apart, then in episodes that a
trained policy has spoken

- an emotion that Q prefers must still return more than another. Only arms that draw their emotions can show it: the
  return beyond V(s) is regressed on the advantage of what was drawn. 1 is all of what Q promises, 0 is nothing.
- Q must be right on average, and order the turns. Where every episode ends alike there is little to order.
- fitted Q evaluation must agree with the mean return.

Returns are in the reward that the selector was trained with.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy import stats

from emodistill.data.schema import Episode
from emodistill.data.transitions import Reward, TransitionEpisodes, build_transitions
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import bootstrap_interval, statistic_interval
from emodistill.learners.ope import fitted_q_value
from emodistill.learners.selector import IQLSelector, load_selector
from emodistill.reporting.figures.curves import Bin, calibration
from emodistill.reporting.results import RULE, AnalysisResult
from emodistill.reporting.tables import Column, Table

BINS = 5
RESAMPLES = 2000
_COLUMNS = [
    Column("arm", "arm", "text"),
    Column("condition", "condition", "text"),
    Column("training_seed", "training seed", "count"),
    Column("turns", "turns", "count"),
    Column("scenarios", "scenarios", "count"),
    Column("kept", "of a promised advantage, realised [95 %]", "interval"),
    Column("correlation", "rank correlation of turns [95 %]", "interval"),
    Column("bias", "predicted minus realised [95 %]", "interval"),
    Column("fitted_q", "fitted Q evaluation"),
    Column("returned", "mean return [95 %]", "interval"),
]
_RULE = (
    f"{RULE} Q still picks emotions for an arm's words where what is realised of a "
    "promised advantage has an interval above 0, which only arms with random emotions can show; it orders their turns "
    "where the rank correlation with the realised return has; it is calibrated where the interval of the bias holds 0."
)
_NOTE = (
    "In the selector's reward, discounted per turn; intervals by resampling scenarios. Realised of a promised "
    "advantage: the slope of the return beyond V(s) on Q minus its mean over emotions, where chance chose the emotion; "
    "1 if words do all that Q was taught, 0 if they do nothing. The fitted value is of the selector's own (greedy) "
    "policy, learnt on the arm's episodes; where an arm shows other emotions it is no estimate of its return. Q is of "
    "the behaviour that the selector improves on, not exactly of the greedy policy."
)


@dataclass(frozen=True)
class QTurns:
    """Focal turns that show an emotion: what the selector predicted for them, and what came of them. B turns.

    Attributes:
        predicted: min(Q1, Q2) of the selector, in raw reward, (B,).
        realised: the discounted return from that turn on, in raw reward, (B,).
        advantage: `predicted` minus the mean Q of all emotions that the corpus shows, (B,).
        beyond: `realised` minus V(s): what the return owes neither to the state nor to Q, (B,).
        drawn: whether chance chose the emotion, (B,) bool.
        step: 0-based turn within its episode, (B,).
        scenarios: (domain, id) of each turn.
        table: the same turns as transitions.
    """

    predicted: np.ndarray
    realised: np.ndarray
    advantage: np.ndarray
    beyond: np.ndarray
    drawn: np.ndarray
    step: np.ndarray
    scenarios: Sequence[Hashable]
    table: TransitionEpisodes


@dataclass(frozen=True)
class Separability:
    """Calibration of Q for every arm that shows emotions.

    Attributes:
        vocabulary: of the run.
    """

    vocabulary: Vocabulary
    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        rows, bins = [], []
        several = len({one.training_seed for one in played}) > 1
        for one in played:
            episodes = [episode for episode in valid(one.episodes) if shows_emotions(episode)]
            checkpoint = Path(one.run_dir) / "iql" / "best.ckpt"
            if not episodes or not checkpoint.is_file():
                continue
            selector = load_selector(str(checkpoint), self.vocabulary)
            reward, discount = trained_with(Path(one.run_dir))
            turns = q_turns(episodes, selector, reward, discount)
            row = {"arm": one.arm, "condition": one.condition, "training_seed": one.training_seed}
            rows.append({**row, **self._row(turns), "fitted_q": fitted_value(turns, selector, discount)})
            bins += binned(turns, called(row, several), self.seed)
        return result_of(rows, bins, several)

    def _row(self, turns: QTurns) -> dict[str, Any]:
        apart = turns.predicted - turns.realised
        first = turns.step == 0
        returned = turns.realised[first]
        first_scenarios = [s for s, is_first in zip(turns.scenarios, first, strict=True) if is_first]
        return {
            "turns": len(apart),
            "scenarios": len(set(turns.scenarios)),
            "kept": resampled(slope, turns.advantage, turns.beyond, turns.scenarios, turns.drawn, self.seed),
            "correlation": resampled(
                rank_correlation, turns.predicted, turns.realised, turns.scenarios, seed=self.seed
            ),
            "bias": [float(apart.mean()), *bootstrap_interval(apart, turns.scenarios, self.seed)],
            "returned": [float(returned.mean()), *bootstrap_interval(returned, first_scenarios, self.seed)],
        }


def result_of(rows: Sequence[Mapping[str, Any]], bins: Sequence[Bin], several: bool) -> AnalysisResult:
    """Table, figure and sentences of what was found; with `several` training seeds, the rows are told apart by them."""
    columns = [column for column in _COLUMNS if several or column.key != "training_seed"]
    table = Table("separability", "Q of the selector against what came of it", columns, rows, _NOTE)
    if not rows:
        return AnalysisResult(
            [table], verdicts=["no arm of this study shows emotions of a selector that can be loaded"]
        )
    figure = calibration("q_calibration", "Predicted and realised return of turns", bins, "discounted reward")
    verdicts = [_RULE, *(_verdict(row, several) for row in rows)]
    return AnalysisResult([table], [figure], verdicts, summary=replace(table, note=""))


def trained_with(run_dir: Path) -> tuple[Reward, float]:
    """Reward and discount of a run's selector, from the configuration that its training began with.

    A judge's part is left out: the words of an evaluation are not judged.
    """
    config = yaml.safe_load((run_dir / "iql" / "config.yaml").read_text(encoding="utf-8"))
    numbers = {key: value for key, value in config["data"]["dataset"]["reward"].items() if key != "_target_"}
    return Reward(**(numbers | {"judge": 0.0})), float(config["learner"]["discount"])


@torch.no_grad()
def q_turns(episodes: Sequence[Episode], selector: IQLSelector, reward: Reward, discount: float) -> QTurns:
    """All turns of valid episodes that show an emotion."""
    table = build_transitions(episodes, selector.observer, reward)
    shown = [e for e in episodes if e.end != "invalid" and any(turn.emotion is not None for turn in e.focal_turns)]
    owners = [(shown[i].scenario.domain, shown[i].scenario.id) for i in table.episode.tolist()]
    transitions, learner = table.transitions, selector.learner
    scale = learner.stats.reward_scale  # back to raw reward
    values = (learner.q_values(transitions.observation) * scale).double()
    predicted = values.gather(1, transitions.action[:, None])[:, 0]
    advantage = predicted - values[:, learner.stats.action_mask].mean(1)
    state = learner.v(learner.stats.standardise(transitions.observation))[:, 0] * scale
    returns = returns_of(transitions.reward.double().numpy(), transitions.terminal.numpy(), discount)
    return QTurns(
        predicted.numpy(),
        returns,
        advantage.numpy(),
        returns - state.double().numpy(),
        (table.behaviour_prob < 1).numpy(),  # an unknown probability, nan, is not below 1
        table.step.numpy(),
        owners,
        table,
    )


def returns_of(rewards: np.ndarray, terminal: np.ndarray, discount: float) -> np.ndarray:
    """Discounted return from each turn to the end of its episode; (B,), (B,) -> (B,)."""
    returns, following = np.zeros(len(rewards)), 0.0
    for i in range(len(rewards) - 1, -1, -1):
        following = rewards[i] + (0.0 if terminal[i] else discount * following)
        returns[i] = following
    return returns


@torch.no_grad()
def fitted_value(turns: QTurns, selector: IQLSelector, discount: float) -> float:
    """Fitted Q evaluation, on these turns, of the selector's greedy policy: its discounted return, in raw reward."""
    transitions, learner = turns.table.transitions, selector.learner
    rows = (transitions.observation, transitions.next_observation)
    observation, following = (learner.stats.standardise(seen) for seen in rows)
    table = turns.table._replace(transitions=transitions._replace(observation=observation, next_observation=following))
    policy, next_policy = (learner.greedy(seen).float() for seen in rows)
    return fitted_q_value(table, policy, next_policy, discount)


def shows_emotions(episode: Episode) -> bool:
    return any(turn.emotion is not None for turn in episode.focal_turns)


def rank_correlation(predicted: np.ndarray, realised: np.ndarray) -> float:
    """Spearman's rho; nan where one of the two does not vary."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(realised) == 0:
        return float("nan")
    return float(stats.spearmanr(predicted, realised).statistic)


def slope(across: np.ndarray, values: np.ndarray) -> float:
    """Of the straight line through the points by least squares; nan where it has no direction."""
    if len(across) < 2 or np.ptp(across) == 0:
        return float("nan")
    return float(np.polynomial.polynomial.polyfit(across, values, 1)[1])


def resampled(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    first: np.ndarray,
    second: np.ndarray,
    scenarios: Sequence[Hashable],
    chosen: np.ndarray | None = None,
    seed: int = 0,
) -> list[float]:
    """A statistic of paired values, with its 95 % interval by resampling whole scenarios; three of nan
    where fewer than two scenarios have any.

    Args:
        chosen: of which turns, (B,) bool; None takes all.
    """
    groups: dict[Hashable, list[int]] = {}
    for i in range(len(first)) if chosen is None else np.flatnonzero(chosen).tolist():
        groups.setdefault(scenarios[i], []).append(i)
    if len(groups) < 2:
        return [float("nan")] * 3
    members = [np.array(group) for group in groups.values()]

    def of(drawn: np.ndarray) -> float:
        rows = np.concatenate([members[k] for k in drawn])
        return statistic(first[rows], second[rows])

    def of_each(drawn: np.ndarray, axis: int) -> np.ndarray:
        return np.apply_along_axis(of, axis, drawn)

    return list(statistic_interval([np.arange(len(members))], of_each, seed, RESAMPLES))


def binned(turns: QTurns, label: str, seed: int = 0, bins: int = BINS) -> list[Bin]:
    """Equally many turns a bin, by predicted return."""
    found = []
    for rows in np.array_split(np.argsort(turns.predicted, kind="stable"), min(bins, len(turns.predicted))):
        values = turns.realised[rows]
        low, high = bootstrap_interval(values, [turns.scenarios[i] for i in rows], seed)
        found.append(Bin(label, float(turns.predicted[rows].mean()), float(values.mean()), low, high))
    return found


def called(row: Mapping[str, Any], several: bool) -> str:
    """The name of a row; it has the training seed where there are several."""
    return ", ".join(filter(None, [row["arm"], row["condition"], f"training seed {row['training_seed']}" * several]))


def _verdict(row: Mapping[str, Any], several: bool) -> str:
    where = called(row, several)
    kept, least, most = row["kept"]
    picks = ""
    if kept == kept:
        still = "still picks emotions" if least > 0 else "picks emotions within noise of chance"
        picks = f"{still} ({kept:.2f} [{least:.2f}, {most:.2f}] of a promised advantage is realised), "
    rho, low, high = row["correlation"]
    ordered = "orders turns" if low > 0 else "orders turns the other way round" if high < 0 else "does not order turns"
    bias, bottom, top = row["bias"]
    off = f"{'above' if bias > 0 else 'below'} what is realised by {abs(bias):.2f}"
    right = "calibrated" if bottom <= 0 <= top else off
    gap = f"fitted Q evaluation {row['fitted_q']:.2f} against a mean return of {row['returned'][0]:.2f}"
    return f"{where}: Q {picks}{ordered} (rho {rho:.2f} [{low:.2f}, {high:.2f}]) and is {right}; {gap}."
