"""Grouped-query attention on the CPU: each key and value head is read once for all query heads that share it.

The usual way repeats keys and values for every query head, and torch's flash kernel on the CPU takes twice the time of
the matrix products it is made of. Here the query heads of a group are stacked into one matrix, and queries go block by
block, so that keys which no query of a block may see are not touched. Nothing of size T x T is kept for the backward
pass: the weights are computed again.

Shapes: B rows, H query heads, G key-value heads, T queries, S keys, D numbers a head.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NAME = "grouped"
BLOCK = 128  # queries at a time: the weights of a block stay in the processor's cache


def use_grouped_attention(model: Any) -> None:
    """Let a transformers model on the CPU attend this way, where each of its layers attends to all earlier tokens."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = kinds == {"full_attention"} and getattr(config, "attn_logit_softcapping", None) is None
    if plain and config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """The interface of transformers: (B, H, T, D), (B, G, S, D) twice -> (B, T, H, D).

    Args:
        attention_mask: (B, 1, T, S) bool, true where a query sees a key; None is causal, with T = S. Where T = S, no
            query may see a later key.
    """
    if dropout:
        raise ValueError("grouped attention has no dropout")
    if torch.is_grad_enabled() and query.requires_grad:
        attended: Tensor = _Grouped.apply(query, key, value, attention_mask, scaling)  # type: ignore[no-untyped-call]
    else:
        attended = _attend(query, key, value, attention_mask, scaling)
    return attended.transpose(1, 2), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _blocks(query: Tensor, key: Tensor) -> list[tuple[int, int, int]]:
    """First and last query of each block, and how many keys it may see at most."""
    queries, keys = query.shape[2], key.shape[2]
    if queries != keys:
        return [(0, queries, keys)]
    return [(first, min(first + BLOCK, queries), min(first + BLOCK, queries)) for first in range(0, queries, BLOCK)]


def _stacked(heads: Tensor, groups: int) -> Tensor:
    """(B, H, N, D) -> (B, G, H / G * N, D)."""
    batch, count, rows, width = heads.shape
    return heads.reshape(batch, groups, count // groups * rows, width)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, block: tuple[int, int, int]) -> Tensor:
    """Attention weights of a block, (B, G, H / G * N, S): `query` is stacked and scaled already."""
    first, last, seen = block
    scores = query @ key[:, :, :seen].transpose(-1, -2)
    by_head = scores.view(*scores.shape[:2], -1, last - first, seen)
    if mask is not None:
        by_head.masked_fill_(~mask[:, :, None, first:last, :seen], -torch.inf)
    elif last - first > 1:
        later = torch.ones(last - first, last - first, dtype=torch.bool, device=query.device).triu(1)
        by_head[..., first:last].masked_fill_(later, -torch.inf)
    return scores.softmax(-1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    groups, attended = key.shape[1], torch.empty_like(query)
    for block in _blocks(query, key):
        first, last, seen = block
        part = query[:, :, first:last]
        weights = _weights(_stacked(part * scaling, groups), key, mask, block)
        attended[:, :, first:last] = (weights @ value[:, :, :seen]).view_as(part)
    return attended


class _Grouped(torch.autograd.Function):
    """`_attend` with a gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling = scaling
        return _attend(query, key, value, mask, scaling)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        groups, outer = key.shape[1], grad_outputs[0]
        of_query = torch.empty_like(query)
        of_key, of_value = (torch.zeros(key.shape, dtype=torch.float32, device=key.device) for _ in range(2))
        for block in _blocks(query, key):
            first, last, seen = block
            part = query[:, :, first:last]
            scaled, gradient = _stacked(part * ctx.scaling, groups), _stacked(outer[:, :, first:last], groups)
            weights = _weights(scaled, key, mask, block)
            of_value[:, :, :seen] += weights.transpose(-1, -2) @ gradient
            of_weights = gradient @ value[:, :, :seen].transpose(-1, -2)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_query[:, :, first:last] = (of_scores @ key[:, :, :seen]).view_as(part) * ctx.scaling
            of_key[:, :, :seen] += of_scores.transpose(-1, -2) @ scaled
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None, None
