"""Batches of chats as tensors, log-probabilities of their response tokens, and sums and means by utterance.

Shapes: B rows, T tokens a padded row, K response tokens of the whole batch, U utterances of the whole batch.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from emodistill.language_models.logits import PLAIN, LogitRule

WIDTH = 64  # lengths are rounded up to a multiple of it: CPU kernels are compiled and kept for every new shape
CHUNK = 256  # response tokens that get logits at a time: 256 x 8,192 floats are 8 MB
SHAPE = 64  # the last of them are filled up to a multiple of this
HEAD_ROWS = 8192  # vocabulary entries that get logits at a time: 8,192 x 3,584 floats are 117 MB


class Packing(NamedTuple):
    """How the tokens of packed rows belong together.

    A row begins with a *trunk*, a whole context. Other contexts that begin alike follow as *branches*: what they have
    beyond the beginning that they share with the trunk. Replies stand behind the trunk or a branch. A token sees the
    beginning of the trunk that its context has, its own branch, and its own reply, and is numbered as in the chat that
    these make up. So what several contexts share, and a context with several replies, runs through the model once.
    """

    position_ids: Tensor  # (B, T) long
    trunk: Tensor  # (B, T) long, how many tokens of the trunk a token sees
    branch: Tensor  # (B, T) long, the branch of the row that a token is in or behind, -1 where there is none
    before: Tensor  # (B, T) long, column of the token that predicts this one


class Chats(NamedTuple):
    """Tokenised chats, right-padded.

    Without `packing` a row is one chat, and every token attends to all tokens before it.
    """

    input_ids: Tensor  # (B, T) long
    attention_mask: Tensor  # (B, T) bool, true on tokens, false on padding
    utterance: Tensor  # (B, T) long, which utterance of the batch a response token belongs to, -1 elsewhere
    packing: Packing | None = None

    @property
    def utterances(self) -> int:
        """U, the number of utterances that are scored."""
        return int(self.utterance.max()) + 1

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Chats":
        def moved(fields: Iterable[Tensor]) -> list[Tensor]:
            return [field.to(device, non_blocking=non_blocking) for field in fields]

        ids, mask, utterance = moved(self[:3])
        return Chats(ids, mask, utterance, None if self.packing is None else Packing(*moved(self.packing)))


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


def shared_beginnings(contexts: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Groups of contexts that begin alike: pairs of a context's place and how many tokens it shares with the first.

    The first of a group is its longest. A context joins the group with which it shares most, if that is half of it.
    """
    groups: list[list[tuple[int, int]]] = []
    for place in sorted(range(len(contexts)), key=lambda place: -len(contexts[place])):
        shared = [_common(contexts[place], contexts[group[0][0]]) for group in groups]
        most = max(shared, default=0)
        if 2 * most >= len(contexts[place]):
            groups[shared.index(most)].append((place, most))
        else:
            groups.append([(place, len(contexts[place]))])
    return groups


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def pack_replies(contexts: Sequence[Sequence[int]], replies: Sequence[Sequence[Sequence[int]]], pad_id: int) -> Chats:
    """Contexts with all their replies, those that begin alike in one row; utterances are numbered in the order given.

    Args:
        replies: to each context, by context.
    """
    numbers = [sum(map(len, replies[:place])) for place in range(len(replies))]  # of the first reply to each context
    rows = [_packed(contexts, replies, numbers, group) for group in shared_beginnings(contexts)]
    length = -(-max(len(row) for row in rows) // WIDTH) * WIDTH
    fields = torch.zeros(6, len(rows), length, dtype=torch.long)
    fields[0], fields[1], fields[4] = pad_id, -1, -1
    attention_mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for number, row in enumerate(rows):
        fields[:, number, : len(row)] = torch.tensor(row).T
        attention_mask[number, : len(row)] = True
    ids, utterance, *packing = fields
    return Chats(ids, attention_mask, utterance, Packing(*packing))


def _packed(
    contexts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[Sequence[int]]],
    numbers: Sequence[int],
    group: Sequence[tuple[int, int]],
) -> list[tuple[int, ...]]:
    """The tokens of one row: id, utterance, position, tokens of the trunk it sees, branch, column of the one before."""
    row: list[tuple[int, ...]] = []

    def add(ids: Sequence[int], utterance: int, position: int, trunk: int | None, branch: int, before: int) -> int:
        """Append tokens that follow one another; returns the column of the last, or `before` where there is none."""
        for offset, token in enumerate(ids):
            seen = len(row) + 1 if trunk is None else trunk
            row.append((token, utterance, position + offset, seen, branch, before))
            before = len(row) - 1
        return before

    add(contexts[group[0][0]], -1, 0, None, -1, 0)
    for number, (place, shared) in enumerate(group):
        own = contexts[place][shared:]
        branch = number if own else -1
        last = add(own, -1, shared, shared, branch, shared - 1)
        for i, reply in enumerate(replies[place]):
            add(reply, numbers[place] + i, len(contexts[place]), shared, branch, last)
    return row


def packed_visibility(packing: Packing, utterance: Tensor, first: int, last: int, start: int) -> Tensor:
    """Which tokens of packed rows see which: (..., last - first, last - start) bool, queries by keys.

    Args:
        packing, utterance: of one row, (T,) each, or of several, (B, T).
        first, last: columns of the queries, the last one excluded.
        start: the first key.
    """
    query, key = (slice(first, last), None), (None, slice(start, last))
    columns = torch.arange(utterance.shape[-1], device=utterance.device)
    in_trunk = (utterance < 0) & (packing.branch < 0)
    of_trunk = columns[key] < packing.trunk[..., *query]
    of_branch = packing.branch[..., *key] == packing.branch[..., *query]
    of_reply = utterance[..., *key] == utterance[..., *query]
    own = torch.where(utterance[..., *key] < 0, of_branch, of_reply)
    visible = torch.where(in_trunk[..., *key], of_trunk, own)
    return visible & (columns[key] <= columns[query])


def unpack(chats: Chats) -> tuple[Chats, Tensor]:
    """Every reply of packed rows behind its own context, in a row of its own, for models that take no mask.

    Returns:
        The chats, and where each response token of the packed rows is among those of the chats: (K,) long.
    """
    assert chats.packing is not None
    rows: list[tuple[list[int], list[int]]] = []
    numbers: list[int] = []
    places: list[Tensor] = []
    numbered = torch.full_like(chats.utterance, -1)
    numbered[chats.utterance >= 0] = torch.arange(int((chats.utterance >= 0).sum()), device=numbered.device)
    for row, utterance in enumerate(chats.utterance):
        packing = Packing(*(field[row] for field in chats.packing))
        for number in utterance[utterance >= 0].unique().tolist():
            last = int((utterance == number).nonzero()[-1])
            seen = packed_visibility(packing, utterance, last, last + 1, 0)[0].nonzero()[:, 0]
            own = utterance[seen] == number
            rows.append((chats.input_ids[row, seen].tolist(), torch.where(own, 0, -1).tolist()))
            numbers.append(number)
            places.append(numbered[row, seen[own]])
    plain = collate_chats(rows, pad_id=0).to(chats.input_ids.device)
    renumbered = torch.tensor([*numbers, -1], device=plain.utterance.device)[plain.utterance]
    return plain._replace(utterance=renumbered), torch.cat(places).argsort()


def packed_mask(chats: Chats) -> Tensor:
    """Which token attends to which in packed rows: (B, 1, T, T) bool, true where row t may attend to column s."""
    assert chats.packing is not None
    width = chats.input_ids.shape[1]
    visible = packed_visibility(chats.packing, chats.utterance, 0, width, 0)
    itself = torch.eye(width, dtype=torch.bool, device=visible.device)  # for padding, which sees nothing else
    return (visible | itself).unsqueeze(1)


def response_positions(chats: Chats) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of every response token, and the column of the token that predicts it: three times (K,)."""
    rows, columns = (chats.utterance >= 0).nonzero(as_tuple=True)
    return rows, columns, columns - 1 if chats.packing is None else chats.packing.before[rows, columns]


class _FrozenHead(torch.autograd.Function):
    """log softmax(f(W h + b))[target] in float32, without keeping the logits or a float32 copy of W.

    W is frozen, so the gradient is d log p / d h = f' W[target] - softmax f' W, of the size of h. It is computed in the
    forward pass. W goes by in slabs of `HEAD_ROWS` entries; the sum over all entries is kept relative to the largest
    logit so far, and so is the gradient. A slab's logits are all that is ever there of them. f is the model's
    `LogitRule`, for most models nothing.

    The gradient's own product is in the dtype of the hidden states, to which the gradient is rounded anyway.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rule: LogitRule
    ) -> Tensor:
        logprobs, gradients, wanted, count = [], [], ctx.needs_input_grad[0], len(targets)
        hidden, targets = F.pad(hidden, (0, 0, 0, -count % SHAPE)), F.pad(targets, (0, -count % SHAPE))
        for part, target in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
            exact, row = part.float(), weight[target].float()
            chosen = (exact * row).sum(1) if bias is None else (exact * row).sum(1) + bias[target].float()
            if rule != PLAIN:
                chosen = rule(chosen)
                row = row * rule.slope(chosen).unsqueeze(1)
            largest = exact.new_full((len(part), 1), -torch.inf)
            total, mean = torch.zeros_like(largest), torch.zeros_like(exact)
            for first in range(0, len(weight), HEAD_ROWS):
                slab = weight[first : first + HEAD_ROWS]
                own_bias = None if bias is None else bias[first : first + HEAD_ROWS].float()
                logits = rule(F.linear(exact, slab.float(), own_bias))
                slope = rule.slope(logits) if wanted and rule != PLAIN else None
                before, largest = largest, torch.maximum(largest, logits.amax(1, keepdim=True))
                shares, kept = logits.sub_(largest).exp_(), (before - largest).exp_()
                total = total * kept + shares.sum(1, keepdim=True)
                if wanted:
                    shares = shares if slope is None else shares.mul_(slope)
                    mean = (mean * kept).add_((shares.to(part.dtype) @ slab.to(part.dtype)).float())
            logprobs.append(chosen - (largest + total.log()).squeeze(1))
            if wanted:
                gradients.append(row - mean / total)
        if wanted:
            ctx.save_for_backward(torch.cat(gradients)[:count] if gradients else hidden.float())
        ctx.dtype = hidden.dtype
        return torch.cat(logprobs)[:count] if logprobs else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0].unsqueeze(1)).to(ctx.dtype), None, None, None, None


def frozen_head_logprobs(hidden: Tensor, head: Any, targets: Tensor, rule: LogitRule = PLAIN) -> Tensor:
    """Log-probabilities of targets under a frozen output layer, in float32: (K, D), (K,) -> (K,).

    In bfloat16 a single token's error is about 0.01, which is as large as what JPO measures, hence float32 here even
    where the model computes in bfloat16. A layer of another dtype is converted some rows at a time: whole it would take
    2 GB at 7B.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        bias = getattr(head, "bias", None)
        frozen = [None if tensor is None else tensor.detach() for tensor in (head.weight, bias)]
        result: Tensor = _FrozenHead.apply(hidden, *frozen, targets, rule)  # type: ignore[no-untyped-call]
    return result
