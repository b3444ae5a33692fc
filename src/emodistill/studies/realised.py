"""Turns with what the selector predicted for them and what came of them. Shapes: B turns."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from emodistill.data.rewards import Reward
from emodistill.data.schema import Episode
from emodistill.data.transitions import TransitionEpisodes, build_transitions
from emodistill.evaluation.ope import fitted_q_value
from emodistill.learners.selector import IQLSelector


@dataclass(frozen=True)
class Turns:
    """Focal turns that show an emotion.

    Attributes:
        predicted: min Q'(s, a) of the selector, in raw reward, (B,).
        realised: the discounted return from that turn on, in raw reward, (B,).
        advantage: `predicted` less the mean Q of all emotions that the corpus shows, (B,).
        beyond: `realised` less V(s): what the return owes neither to the state nor to Q, (B,).
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


def trained_with(run_dir: Path) -> tuple[Reward, float]:
    """Reward and discount of a run's selector, from the configuration that its training began with.

    A judge's part is left out: the words of an evaluation are not judged.
    """
    config = yaml.safe_load((run_dir / "iql" / "config.yaml").read_text(encoding="utf-8"))
    weights = config["data"]["view"]["reward"]
    return Reward(weights["concession"], weights["utility"], 0.0), float(config["learner"]["discount"])


@torch.no_grad()
def realised(episodes: Sequence[Episode], selector: IQLSelector, reward: Reward, discount: float) -> Turns:
    """All turns of valid episodes that show an emotion."""
    table = build_transitions(episodes, selector.observer, reward)
    shown = [e for e in episodes if e.end != "invalid" and any(turn.emotion is not None for turn in e.focal_turns)]
    owners = [(shown[i].scenario.domain, shown[i].scenario.id) for i in table.episode.tolist()]
    transitions, learner = table.transitions, selector.learner
    scale = learner.facts.reward_scale  # back to raw reward
    values = (learner.q_values(transitions.observation) * scale).double()
    predicted = values.gather(1, transitions.action[:, None])[:, 0]
    advantage = predicted - values[:, learner.facts.seen].mean(1)
    state = learner.v(learner.facts.standardise(transitions.observation))[:, 0] * scale
    returns = returns_of(transitions.reward.double().numpy(), transitions.terminal.numpy(), discount)
    return Turns(
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
def fitted_value(turns: Turns, selector: IQLSelector, discount: float) -> float:
    """Fitted Q evaluation, on these turns, of the selector's greedy policy: its discounted return, in raw reward."""
    transitions, learner = turns.table.transitions, selector.learner
    rows = (transitions.observation, transitions.next_observation)
    observation, following = (learner.facts.standardise(seen) for seen in rows)
    table = turns.table._replace(transitions=transitions._replace(observation=observation, next_observation=following))
    policy, next_policy = (learner.act(seen)[1] for seen in rows)
    return fitted_q_value(table, policy.float(), next_policy.float(), discount)
