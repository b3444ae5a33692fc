"""Batches of chats as tensors, log-probabilities of their response tokens, and sums and means by utterance.

Shapes: B rows, T tokens a padded row, K response tokens of the whole batch, U utterances of the whole batch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH = 64  # lengths are rounded up to a multiple of it: CPU kernels are compiled and kept for every new shape
CHUNK = 512  # response tokens that get logits at a time: 512 x 8,192 floats are 17 MB
HEAD_ROWS = 8192  # vocabulary entries that get logits at a time: 8,192 x 3,584 floats are 117 MB


class Chats(NamedTuple):
    """Tokenised chats, right-padded.

    Without `position_ids` a row is one chat, and every token attends to all tokens before it. With them a row is
    *packed*: a context followed by several replies to it. Each reply attends to the context and itself only, and is
    numbered as if it came right after the context. The context then runs through the model once for all its replies.
    """

    input_ids: Tensor  # (B, T) long
    attention_mask: Tensor  # (B, T) bool, true on tokens, false on padding
    utterance: Tensor  # (B, T) long, which utterance of the batch a response token belongs to, -1 elsewhere
    position_ids: Tensor | None = None  # (B, T) long, only where rows are packed

    @property
    def utterances(self) -> int:
        """U, the number of utterances that are scored."""
        return int(self.utterance.max()) + 1

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Chats":
        moved = (None if field is None else field.to(device, non_blocking=non_blocking) for field in self)
        return Chats(*moved)  # type: ignore[arg-type]  # only the last field can be None


class TokenLogprobs(NamedTuple):
    """Log-probabilities of the response tokens of a batch, row by row."""

    logprobs: Tensor  # (K,) float32, natural log
    owner: Tensor  # (K,) long, the utterance that the token belongs to


def sum_by_utterance(values: Tensor, owner: Tensor, utterances: int) -> Tensor:
    """Sum of token values within each utterance, in float32: (K,), (K,) -> (U,)."""
    return values.new_zeros(utterances, dtype=torch.float32).index_add(0, owner, values.float())


def mean_by_utterance(values: Tensor, owner: Tensor, utterances: int) -> Tensor:
    """Mean of token values within each utterance, in float32: (K,), (K,) -> (U,); 0 for one without tokens."""
    count = sum_by_utterance(torch.ones_like(values), owner, utterances)
    return sum_by_utterance(values, owner, utterances) / count.clamp(min=1)


def collate_chats(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> Chats:
    """Pad chats to one length, a multiple of `WIDTH`, and number their utterances over the batch.

    Args:
        rows: for each chat its token ids, and for each token its utterance within the chat or -1.
    """
    length, first = -(-max(len(ids) for ids, _ in rows) // WIDTH) * WIDTH, 0
    input_ids = torch.full((len(rows), length), pad_id)
    utterance = torch.full((len(rows), length), -1)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (ids, owner) in enumerate(rows):
        local = torch.tensor(owner)
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention_mask[row, : len(ids)] = True
        utterance[row, : len(ids)] = torch.where(local >= 0, local + first, -1)
        first += int(local.max()) + 1
    return Chats(input_ids, attention_mask, utterance)


def pack_replies(contexts: Sequence[Sequence[int]], replies: Sequence[Sequence[Sequence[int]]], pad_id: int) -> Chats:
    """One row a context, with all its replies behind it; utterances are numbered in the order given."""
    rows, positions = [], []
    for context, own in zip(contexts, replies, strict=True):
        ids, owner, position = list(context), [-1] * len(context), list(range(len(context)))
        for i, reply in enumerate(own):
            ids += reply
            owner += [i] * len(reply)
            position += range(len(context), len(context) + len(reply))
        rows.append((ids, owner))
        positions.append(position)
    chats = collate_chats(rows, pad_id)
    position_ids = torch.zeros_like(chats.input_ids)
    for row, position in enumerate(positions):
        position_ids[row, : len(position)] = torch.tensor(position)
    return chats._replace(position_ids=position_ids)


def packed_mask(chats: Chats) -> Tensor:
    """Which token attends to which in packed rows: (B, 1, T, T) bool, true where row t may attend to column s."""
    causal = torch.ones(chats.input_ids.shape[1:] * 2, dtype=torch.bool, device=chats.input_ids.device).tril()
    owner, seen = chats.utterance.unsqueeze(2), chats.utterance.unsqueeze(1)
    visible = causal & ((seen == -1) | (seen == owner)) & chats.attention_mask.unsqueeze(1)
    itself = torch.eye(len(causal), dtype=torch.bool, device=causal.device)  # for padding, which sees nothing else
    return (visible | itself).unsqueeze(1)


def response_positions(chats: Chats) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of every response token, and the column of the token that predicts it: three times (K,)."""
    rows, columns = (chats.utterance >= 0).nonzero(as_tuple=True)
    before = columns - 1
    if chats.position_ids is not None:  # a packed reply begins after the context, wherever it lies in the row
        context = (chats.attention_mask & (chats.utterance < 0)).sum(1)[rows]
        first = chats.position_ids[rows, columns] == context
        before = torch.where(first, context - 1, before)
    return rows, columns, before


class _FrozenHead(torch.autograd.Function):
    """log softmax(W h + b)[target] in float32, without keeping the logits or a float32 copy of W.

    W is frozen, so the gradient is d log p / d h = W[target] - softmax W, of the size of h. It is computed in the
    forward pass. W goes by in slabs of `HEAD_ROWS` entries; the sum over all entries is kept relative to the largest
    logit so far, and so is the gradient. A slab's logits are all that is ever there of them.

    The gradient's own product is in the dtype of the hidden states, to which the gradient is rounded anyway.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        logprobs, gradients, wanted = [], [], ctx.needs_input_grad[0]
        for part, target in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
            exact, row = part.float(), weight[target].float()
            chosen = (exact * row).sum(1) if bias is None else (exact * row).sum(1) + bias[target].float()
            largest = exact.new_full((len(part), 1), -torch.inf)
            total, mean = torch.zeros_like(largest), torch.zeros_like(exact)
            for first in range(0, len(weight), HEAD_ROWS):
                slab = weight[first : first + HEAD_ROWS]
                own_bias = None if bias is None else bias[first : first + HEAD_ROWS].float()
                logits = F.linear(exact, slab.float(), own_bias)
                before, largest = largest, torch.maximum(largest, logits.amax(1, keepdim=True))
                shares, kept = logits.sub_(largest).exp_(), (before - largest).exp_()
                total = total * kept + shares.sum(1, keepdim=True)
                if wanted:
                    mean = (mean * kept).add_((shares.to(part.dtype) @ slab.to(part.dtype)).float())
            logprobs.append(chosen - (largest + total.log()).squeeze(1))
            if wanted:
                gradients.append(row - mean / total)
        if wanted:
            ctx.save_for_backward(torch.cat(gradients) if gradients else hidden.float())
        ctx.dtype = hidden.dtype
        return torch.cat(logprobs) if logprobs else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0].unsqueeze(1)).to(ctx.dtype), None, None, None


def frozen_head_logprobs(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    """Log-probabilities of targets under a frozen output layer, in float32: (K, D), (K,) -> (K,).

    In bfloat16 a single token's error is about 0.01, which is as large as what JPO measures, hence float32 here even
    where the model computes in bfloat16. A layer of another dtype is converted some rows at a time: whole it would take
    2 GB at 7B.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        bias = getattr(head, "bias", None)
        frozen = [None if tensor is None else tensor.detach() for tensor in (head.weight, bias)]
        result: Tensor = _FrozenHead.apply(hidden, *frozen, targets)  # type: ignore[no-untyped-call]
    return result
