"""The losses of the three learners, as pure functions of tensors.

No state, no logging, no reduction that a reader would have to guess: what is averaged is said by the name or the
docstring, so that a formula of docs/method.md and its line of code can be put side by side.

Shapes: B rows of a batch, T tokens of a padded sequence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Mean of the asymmetric square |expectile - 1(error < 0)| * error², a scalar.

    Args:
        error: target minus prediction, any shape. Where it is positive the prediction was too low, and that costs
            `expectile`; too high costs `1 - expectile`. At 0.5 this is half the mean squared error.
        expectile: between 0 and 1.

    Source:
        Kostrikov et al. 2022, eq. 5, https://arxiv.org/abs/2110.06169
    """
    weight = (expectile - (error < 0).to(error.dtype)).abs()
    return (weight * error.square()).mean()


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """The pessimistic clipped objective, negated so that it is minimised: a scalar.

    Args:
        log_ratio: log of policy over reference, (B,), natural log, a token's share of it (the mean over a response).
        advantage: (B,), how much better than its group a response was judged, in standard deviations.
        clip_range: beyond a ratio of 1 ± this, a response gains nothing more by moving further.

    Source:
        Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347
    """
    ratio = log_ratio.exp()
    trusted = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -torch.minimum(ratio * advantage, trusted * advantage).mean()


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy ‖ reference), same shape as the inputs: exp(D) - D - 1, D = reference - policy.

    Never negative, zero exactly where the two agree, and unbiased for tokens drawn from the policy.

    Source:
        Schulman, http://joschu.net/blog/kl-approx.html, estimator k3
    """
    difference = ref_logprobs - logprobs
    return torch.expm1(difference) - difference  # expm1: near 0, exp(D) - 1 would lose the digits that matter


def preference_loss(margin: Tensor, likelihood: Tensor, scale: float, nll_weight: float) -> Tensor:
    """Direct preference optimisation with a likelihood term, a scalar: mean of -log sigmoid(scale m) - nll_weight l.

    Args:
        margin: (B,), how much likelier than under the reference the chosen response has become, minus the same of the
            rejected one: differences of log-probabilities summed over the response.
        likelihood: (B,), mean log-probability of a token of the chosen response. Without this term both may fall.
        scale: beta; higher values keep the policy nearer to the reference.

    Source:
        Rafailov et al. 2023, eq. 7, https://arxiv.org/abs/2305.18290; the second term as in Pang et al. 2024, eq. 1,
        https://arxiv.org/abs/2404.19733
    """
    return -(F.logsigmoid(scale * margin) + nll_weight * likelihood).mean()
