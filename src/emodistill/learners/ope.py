"""What a policy would earn, estimated from dialogues that another policy held.

Two estimators, wrong in different ways. Fitted Q evaluation (FQE) learns the policy's own action values from the
logged transitions: little variance, some bias. Per-decision weighted importance sampling (PDWIS) re-weighs the logged
returns by how much likelier the policy makes the logged actions: no model, but with 28 emotions and several turns few
dialogues keep any weight. Their effective number is reported, and below a stated minimum the value is unreliable.

Both are functions of their arguments alone: the same transitions and policy give the same value, and no global
generator moves. Shapes: B turns, D numbers an observation, A actions, N episodes, T turns of the longest.

Sources:
    Le et al. 2019, https://arxiv.org/abs/1903.08738 (FQE); Precup et al. 2000 and Thomas 2015, section 3.10 (PDWIS)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emodistill.data.transitions import TransitionEpisodes, reward_scale
from emodistill.networks import mlp

MINIMUM_EFFECTIVE_SIZE = 30.0  # episodes; below, an importance-sampled mean is an anecdote


@dataclass(frozen=True)
class FittedQ:
    """How FQE fits its network: small and short, because it runs at every validation."""

    hidden_dims: tuple[int, ...] = (64,)
    iterations: int = 1000
    batch_size: int = 512
    learning_rate: float = 3e-3
    polyak: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class WeightedValue:
    """An importance-sampled value with the number of episodes it effectively rests on."""

    value: float  # discounted return, in reward
    effective_size: float  # (sum of weights)^2 / sum of squared weights; 0 where nothing could be weighed
    reliable: bool


def fitted_q_value(
    episodes: TransitionEpisodes, policy: Tensor, next_policy: Tensor, discount: float, fit: FittedQ | None = None
) -> float:
    """Mean over episodes of the policy's discounted return from its first turn, in reward, by FQE.

    Args:
        episodes: the logged turns; observations should be about standardised.
        policy: the evaluated policy's probabilities at `observation`, (B, A).
        next_policy: the same at `next_observation`, (B, A).
        discount: per turn.
        fit: how to fit; the default is meant for some thousand transitions.
    """
    fit = fit or FittedQ()
    with torch.inference_mode(False), torch.enable_grad():  # a trainer validates in inference mode; fitting needs more
        rows = [column.detach().clone() for column in episodes.transitions]
        scale = reward_scale(rows[2])
        rows[2] = rows[2] / scale
        values = _fit(rows, next_policy.detach().clone(), discount, fit)
        with torch.no_grad():
            first = first_turns(episodes)
            value = (policy[first] * values(rows[0][first])).sum(-1).mean() * scale
    return float(value)


def _fit(rows: list[Tensor], next_policy: Tensor, discount: float, fit: FittedQ) -> nn.Module:
    """Semi-gradient evaluation: regress on reward plus the target network's value of what the policy would do next."""
    observation, action, reward, next_observation, terminal = rows
    generator = torch.Generator().manual_seed(fit.seed)
    with torch.random.fork_rng(devices=[]):  # the layers draw their first weights from the global generator
        torch.manual_seed(fit.seed)
        online, target = (mlp(observation.shape[1], fit.hidden_dims, next_policy.shape[1]) for _ in range(2))
    target.load_state_dict(online.state_dict())
    online, target = online.to(observation), target.to(observation).requires_grad_(False)
    optimizer = torch.optim.Adam(online.parameters(), lr=fit.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, fit.iterations)
    discounts = discount * (1.0 - terminal.to(reward.dtype))
    for _ in range(fit.iterations):
        batch = torch.randint(len(action), (fit.batch_size,), generator=generator).to(action.device)
        next_value = (next_policy[batch] * target(next_observation[batch])).sum(-1)
        td_target = reward[batch] + discounts[batch] * next_value  # 0 after a terminal turn
        estimate = online(observation[batch]).gather(-1, action[batch].unsqueeze(-1)).squeeze(-1)
        optimizer.zero_grad()
        torch.autograd.backward(F.mse_loss(estimate, td_target))
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for mean, parameter in zip(target.parameters(), online.parameters(), strict=True):
                mean.lerp_(parameter, fit.polyak)
    return target  # an average of the last networks, steadier than the last one


def importance_sampled_value(
    episodes: TransitionEpisodes,
    taken_prob: Tensor,
    discount: float,
    minimum_effective_size: float = MINIMUM_EFFECTIVE_SIZE,
) -> WeightedValue:
    """The policy's discounted return from the first turn, in reward, by PDWIS.

    The reward of turn t counts with the product of probability ratios up to t, divided by the sum of these products
    over all episodes; an episode that is over keeps its last product and earns nothing.

    Args:
        episodes: the logged turns with the probabilities they were drawn with.
        taken_prob: the evaluated policy's probability of each logged action, (B,).
        discount: per turn.
        minimum_effective_size: below this many effective episodes the value is not `reliable`.

    Unknown behaviour probabilities, or an episode with a turn left out, give nothing to weigh: effective size 0.
    """
    if not _complete(episodes) or not bool((episodes.behaviour_prob > 0).all()):
        return WeightedValue(float("nan"), 0.0, False)
    log_ratio = taken_prob.double().log() - episodes.behaviour_prob.double().log()
    ratio_table, reward_table = _table(episodes, log_ratio), _table(episodes, episodes.transitions.reward.double())
    weight = ratio_table.cumsum(1).exp()  # (N, T); a turn after the end adds log 1
    total = weight.sum(0)
    if not bool((total > 0).all()):
        return WeightedValue(float("nan"), 0.0, False)
    discounts = discount ** torch.arange(weight.shape[1], dtype=torch.double, device=weight.device)
    value = (discounts * (weight * reward_table).sum(0) / total).sum()
    last = weight[:, -1] / weight[:, -1].sum()
    size = float(1.0 / last.square().sum())
    return WeightedValue(float(value), size, size >= minimum_effective_size)


def mean_return(episodes: TransitionEpisodes, discount: float) -> float:
    """Mean discounted return of the logged episodes, in reward: what the behaviour policy earned."""
    rewards = episodes.transitions.reward.double() * discount ** episodes.step.double()
    return float(rewards.sum() / (int(_numbered(episodes).max()) + 1))


def first_turns(episodes: TransitionEpisodes) -> Tensor:
    """Row of the first turn of each episode, (N,); a turn left out of the log at the start is no first turn."""
    return (episodes.step == 0).nonzero().flatten()


def _numbered(episodes: TransitionEpisodes) -> Tensor:
    """Which of the N episodes a row belongs to, counted from 0: (B,)."""
    number: Tensor = torch.unique(episodes.episode, return_inverse=True)[1]
    return number


def _complete(episodes: TransitionEpisodes) -> bool:
    """Whether every episode has each of its turns once, from the first on to the one that ended it."""
    number = _numbered(episodes)
    count = torch.bincount(number)
    ended = torch.unique(number[episodes.transitions.terminal > 0])
    reached = torch.zeros_like(count).scatter_reduce(0, number, episodes.step + 1, "amax")
    key = number * (int(episodes.step.max()) + 1) + episodes.step
    whole = len(ended) == len(count) and bool((count == reached).all())
    return whole and len(set(key.tolist())) == len(key)


def _table(episodes: TransitionEpisodes, values: Tensor) -> Tensor:
    """Turns laid out by episode and step, zeros after the end: (B,) -> (N, T)."""
    number = _numbered(episodes)
    table = values.new_zeros(int(number.max()) + 1, int(episodes.step.max()) + 1)
    table[number, episodes.step] = values
    return table
