"""The figures of an IQL run that TensorBoard shows: what the heads say of a batch, and how good the policy should be.

All are in the units of the learner (rewards divided by the corpus's scale) except the estimates of the policy's value,
which are in reward, so that runs with other scales can be compared.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from emodistill.data.transitions import TransitionEpisodes, Transitions
from emodistill.evaluation.ope import fitted_q_value, importance_sampled_value, mean_return

if TYPE_CHECKING:
    from emodistill.learners.iql import IQLLearner

Figures = dict[str, Tensor | float]


@torch.no_grad()
def training_figures(learner: "IQLLearner", batch: Transitions) -> Figures:
    """Q, V and advantage statistics, share of capped weights, entropy of the policy (nats), learning rates."""
    observation = learner.facts.standardise(batch.observation)
    q, v = learner.target_q(observation, batch.action), learner.v(observation).squeeze(-1)
    figures: Figures = {}
    for name, values in {"q": q, "v": v, "advantage": q - v}.items():
        figures |= {f"train/{name}_mean": values.mean(), f"train/{name}_std": values.std(correction=0)}
        figures |= {f"train/{name}_min": values.min(), f"train/{name}_max": values.max()}
    capped = learner.weights(q - v) >= learner.hparams["max_advantage_weight"]
    figures["train/weight_clip_share"] = capped.float().mean()
    figures["train/policy_entropy"] = entropy(learner(batch.observation).softmax(-1)).mean()
    for group in learner.trainer.optimizers[0].param_groups:
        figures[f"train/learning_rate_{group['name']}"] = group["lr"]
    return figures


@torch.no_grad()
def validation_figures(
    learner: "IQLLearner", batch: Transitions | TransitionEpisodes
) -> tuple[Figures, dict[str, Tensor]]:
    """Figures of the whole validation split, and how often each emotion is shown, (A,) each, by whom.

    Plain transitions have no episodes: their policy can be described but not evaluated.
    """
    rows = batch.transitions if isinstance(batch, TransitionEpisodes) else batch
    policy = learner(rows.observation).softmax(-1)
    taken = policy.gather(-1, rows.action.unsqueeze(-1)).squeeze(-1)
    known = taken > 0  # an emotion that only the validation split shows is masked, and has no likelihood
    figures: Figures = {
        "val/policy_nll": -taken[known].log().mean() if bool(known.any()) else torch.inf,
        "val/policy_entropy": entropy(policy).mean(),
        "val/advantage_mean": learner.advantages(rows.observation, rows.action).mean(),
    }
    if isinstance(batch, TransitionEpisodes):
        figures |= _value_figures(learner, batch, policy, taken)
    count = policy.shape[-1]
    shares = {
        "corpus": F.one_hot(rows.action, count).float().mean(0),
        "policy": policy.mean(0),
        "greedy": F.one_hot(policy.argmax(-1), count).float().mean(0),
    }
    return figures, shares


def _value_figures(learner: "IQLLearner", batch: TransitionEpisodes, policy: Tensor, taken: Tensor) -> Figures:
    discount = learner.hparams["discount"]
    rows = batch.transitions
    seen = batch._replace(transitions=rows._replace(observation=learner.facts.standardise(rows.observation)))
    following = learner.facts.standardise(rows.next_observation)
    seen = seen._replace(transitions=seen.transitions._replace(next_observation=following))
    weighted = importance_sampled_value(batch, taken, discount)
    name = "val/pdwis_value" if weighted.reliable else "val/pdwis_value_unreliable"
    figures: Figures = {
        "val/fqe_value": fitted_q_value(seen, policy, learner(rows.next_observation).softmax(-1), discount),
        "val/behaviour_value": mean_return(batch, discount),
        "val/pdwis_effective_size": weighted.effective_size,
    }
    return figures | ({name: weighted.value} if weighted.effective_size > 0 else {})


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats, row by row: (B, A) -> (B,)."""
    summed: Tensor = torch.special.entr(probabilities).sum(-1)
    return summed
