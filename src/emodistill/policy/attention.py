"""Attention over chats laid end to end, on the CPU: each key and value head is read once for all heads that share it.

The usual way pads chats to one length and repeats keys and values for every query head, and torch's flash kernel on the
CPU takes twice the time of the matrix products it is made of. Here a batch is one row of tokens without padding between
chats. Queries go block by block; the query heads that share a key-value head are stacked into one matrix, and keys that
no query of a block may see are not touched. Nothing of size T x T is kept for the backward pass: the weights are
computed again.

Products are rounded to the dtype of the model, as everywhere in it, and summed in float32 inside.

Shapes: N tokens of all chats, H query heads, G key-value heads, D numbers a head, T tokens of one chat.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from emodistill.language_models.attention_masks import takes_masks, window_of
from emodistill.policy.token_batches import Chats, Packing, collate_chats, packed_visibility

NAME = "grouped"
TESTED = tuple(  # against the library in tests/families; others are tried when they are loaded
    f"{family}ForCausalLM"
    for family in ("Cohere", "Gemma3", "Granite", "Llama", "Mistral", "Phi3", "Qwen2", "Qwen3", "SmolLM3")
)
_ALIKE = 0.02  # of the largest hidden number: more than rounding in bfloat16, far less than another attention
BLOCK = 128  # queries at a time: the weights of a block stay in the processor's cache
ROUND = 32  # a chat has a multiple of so many tokens, padding included: CPU kernels are compiled for every new shape
PACKED_ROUND = 128  # the same for packed rows, which are longer


class Block(NamedTuple):
    """Queries of one chat that attend together.

    The queries are the tokens `first` to `last` (excluded). They see the tokens from `start` to `last`, except what
    `hidden` hides: (queries, C) with -inf where a query may not see one of the last C of these keys, else 0.
    """

    start: int
    first: int
    last: int
    hidden: Tensor


class Stream(NamedTuple):
    """Chats laid end to end."""

    input_ids: Tensor  # (1, N) long
    position_ids: Tensor  # (1, N) long
    offsets: Tensor  # (B,) long, the first token of each chat
    blocks: list[Block]
    near_blocks: list[Block]  # for layers that see a window of recent tokens; empty where the model has none


def use_grouped_attention(model: Any) -> bool:
    """Let a transformers model attend this way where it is given a `Stream`; whether it does.

    It does where every layer attends to all earlier tokens or to a window of them; softly capped scores (Gemma 2) and
    layers that keep a state (LFM2) stay with the library.
    """
    config = model.config.get_text_config()
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    if not takes_masks(model) or capped or config._attn_implementation != "sdpa":
        return False
    model.set_attn_implementation(NAME)
    if type(model).__name__ in TESTED or model.device.type == "meta" or _computes_alike(model):
        return True
    model.set_attn_implementation("sdpa")
    return False


@torch.no_grad()
def _computes_alike(model: Any) -> bool:
    """Whether this attention gives what torch's does, over a few tokens: its layers may ask for more than it knows."""
    model.eval()
    chats = collate_chats([(list(range(1, 8)), [-1] * 7)], 0)
    stream = lay_out(chats, model.dtype, window_of(model))
    tokens = stream.input_ids.to(model.device)
    places = stream.position_ids.to(model.device)
    expected = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0, :7].float()
    given = {"attention_mask": NO_MASK, "blocks": stream.blocks, "near_blocks": stream.near_blocks}
    try:
        output = model.base_model(input_ids=tokens, position_ids=places, use_cache=False, **given)
    except (RuntimeError, TypeError):  # values of another width than keys, or arguments that nobody passes on
        return False
    found = output.last_hidden_state[0, :7].float()
    return bool((found - expected).abs().max() < _ALIKE * expected.abs().max())


def lay_out(chats: Chats, dtype: torch.dtype, window: int | None = None) -> Stream:
    """The chats of a batch end to end, each padded to a multiple of `ROUND` where the batch is wide enough.

    Args:
        dtype: of the model.
        window: how many tokens some of its layers see, their own included.
    """
    width, ids, positions, offsets, at = chats.input_ids.shape[1], [], [], [], 0
    blocks: list[Block] = []
    near_blocks: list[Block] = []
    triangle = torch.full((BLOCK, BLOCK), -torch.inf, dtype=dtype).triu(1)
    for row, length in enumerate(chats.attention_mask.sum(1).tolist()):
        step = ROUND if chats.packing is None else PACKED_ROUND
        taken = min(-(-length // step) * step, width)
        ids.append(chats.input_ids[row, :taken])
        utterance, trunk, packing = chats.utterance[row, :taken], taken, None
        if chats.packing is not None:
            packing = Packing(*(field[row, :taken] for field in chats.packing))
            trunk = int(((utterance >= 0) | (packing.branch >= 0)).int().argmax())
        positions.append(packing.position_ids if packing else torch.arange(taken))
        offsets.append(at)
        for first in range(0, taken, BLOCK):
            last = min(first + BLOCK, taken)
            hidden = triangle[: last - first, : last - first]
            if packing and last > trunk:
                hidden = _hidden(packing, utterance, first, last, length, dtype)
            blocks.append(Block(at, at + first, at + last, hidden))
            if window is not None:
                near_blocks.append(_near(blocks[-1], positions[-1], window, at))
        at += taken
    return Stream(torch.cat(ids)[None], torch.cat(positions)[None], torch.tensor(offsets), blocks, near_blocks)


def _near(block: Block, positions: Tensor, window: int, at: int) -> Block:
    """A block without the keys that lie further back than a window; `positions` are those of its chat, from `at` on."""
    first, last = block.first - at, block.last - at
    hidden = torch.zeros(last - first, last, dtype=block.hidden.dtype)
    hidden[:, last - block.hidden.shape[1] :] = block.hidden
    far = positions[first:last, None] - positions[None, :last] >= window
    hidden.masked_fill_(far, -torch.inf)
    start = int((hidden == 0).any(0).int().argmax())  # what no query of the block sees is not touched
    return Block(at + start, block.first, block.last, hidden[:, start:])


def _hidden(packing: Packing, utterance: Tensor, first: int, last: int, length: int, dtype: torch.dtype) -> Tensor:
    """What the queries of a block in a packed row may not see of the keys that not all of them see."""
    start = min(first, int(packing.trunk[first : min(last, length)].min()))
    visible = packed_visibility(packing, utterance, first, last, start)
    visible |= torch.arange(start, last) == torch.arange(first, last)[:, None]  # padding sees itself, or else nothing
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf)


NO_MASK = torch.empty(1, 1, 0, 0)  # goes with a `Stream`: the library passes a mask of four dimensions on as it is


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    blocks: Sequence[Block] | None = None,
    near_blocks: Sequence[Block] | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """The interface of transformers: (1, H, N, D), (1, G, N, D) twice -> (1, N, H, D).

    Args:
        blocks, near_blocks: of the `Stream` that the model runs over; without them this is torch's own attention.
        sliding_window: of this layer, None where it sees all tokens.
    """
    if blocks is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return found
    if dropout:
        raise ValueError("grouped attention has no dropout")
    if sliding_window is not None and near_blocks:
        blocks = near_blocks
    if torch.is_grad_enabled() and query.requires_grad:
        attended: Tensor = _Grouped.apply(query, key, value, blocks, scaling)  # type: ignore[no-untyped-call]
    else:
        attended = _attend(query, key, value, blocks, scaling)
    return attended, None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _stacked(heads: Tensor, groups: int) -> Tensor:
    """(n, H, D) -> (G, H / G * n, D)."""
    rows, count, width = heads.shape
    return heads.view(rows, groups, -1, width).permute(1, 2, 0, 3).reshape(groups, -1, width)


def _unstacked(stacked: Tensor, rows: int) -> Tensor:
    """(G, H / G * n, D) -> (n, G, H / G, D)."""
    return stacked.view(len(stacked), -1, rows, stacked.shape[-1]).permute(2, 0, 1, 3)


def _weights(query: Tensor, key: Tensor, block: Block) -> Tensor:
    """Attention weights of a block, (G, H / G * n, S): `query` is stacked and scaled already."""
    scores = query @ key.transpose(-1, -2)
    by_head = scores.view(len(scores), -1, block.last - block.first, scores.shape[-1])
    by_head[..., -block.hidden.shape[1] :] += block.hidden
    return scores.softmax(-1)


def _attend(query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scaling: float) -> Tensor:
    scaled, key, value = (query[0] * scaling).transpose(0, 1), key[0], value[0]
    rows, heads, width = scaled.shape
    groups = len(key)
    attended = scaled.new_empty(rows, groups, heads // groups, width)
    for block in blocks:
        start, first, last, _ = block
        weights = _weights(_stacked(scaled[first:last], groups), key[:, start:last], block)
        attended[first:last] = _unstacked(weights @ value[:, start:last], last - first)
    return attended.view(1, rows, heads, width)


class _Grouped(torch.autograd.Function):
    """`_attend` with a gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scaling: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.blocks, ctx.scaling = blocks, scaling
        return _attend(query, key, value, blocks, scaling)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = (tensor[0] for tensor in ctx.saved_tensors)
        scaled, outer, groups = (query * ctx.scaling).transpose(0, 1), grad_outputs[0][0], len(key)
        of_query = scaled.new_empty(len(scaled), groups, scaled.shape[1] // groups, scaled.shape[2])
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        for block in ctx.blocks:
            start, first, last, _ = block
            part, gradient = _stacked(scaled[first:last], groups), _stacked(outer[first:last], groups)
            keys, values = key[:, start:last], value[:, start:last]
            weights = _weights(part, keys, block)
            of_value[:, start:last] += weights.transpose(-1, -2) @ gradient
            of_weights = gradient @ values.transpose(-1, -2)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_query[first:last] = _unstacked(of_scores @ keys, last - first)
            of_key[:, start:last] += of_scores.transpose(-1, -2) @ part
        of_query = of_query.mul_(ctx.scaling).view_as(scaled).transpose(0, 1)
        return of_query[None], of_key[None], of_value[None], None, None
