"""From logits to tokens: greedy, or temperature over the likeliest k.

The k likeliest are taken first: a softmax and a cumulative sum over a vocabulary of 49,152 cost ten times as much.
Shapes: R rows, V vocabulary entries, T tokens of the longest reply.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def uniform_noise(seeds: Sequence[int | Sequence[int]], length: int) -> Tensor:
    """One uniform number in [0, 1) a token; a row depends on its own seed alone: (R, T) float64."""
    return torch.from_numpy(np.stack([np.random.default_rng(seed).random(length) for seed in seeds]))


def pick(logits: Tensor, uniforms: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """One token a row, drawn with the row's uniform number: (R, V), (R,) -> (R,) long.

    Temperature 0 is the likeliest token; `top_k=None` draws from all.
    """
    if temperature == 0:
        return logits.argmax(-1)
    values, ids = logits.topk(min(top_k or logits.shape[1], logits.shape[1]))
    # in the order of ids: were it the order of logits, a rounding error that swaps two likely tokens would change far
    # more draws than its own size
    ids, order = ids.sort(-1)
    likelihood = (values.double().gather(1, order) / temperature).softmax(-1)
    cumulative = likelihood.cumsum(-1)
    rank = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1]).unsqueeze(1), right=True)
    return ids.gather(1, rank.clamp(max=ids.shape[1] - 1)).squeeze(1)
