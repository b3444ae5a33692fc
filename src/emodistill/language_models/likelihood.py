"""How likely a local model finds texts, token by token, each after a short context.

Texts that share a context lie behind it in one packed row: each attends to the context and to itself, and is numbered
as if it came right after the context, so the context goes through the model once for all of them. Rows of like length
go through together. Only the tokens of the texts get logits, in float32.

Shapes: R rows of a pass, L tokens of its longest row, K text tokens of the pass, D hidden units.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]
PASS_TOKENS = 1024  # of the rows that go through the model together, padding counted
LENGTH = 32  # rows have a multiple of it, and passes are whole: CPU libraries keep memory for every new shape
LOGIT_ROWS = 64  # text tokens that get logits at a time: 64 x 49,152 floats are 13 MB
PADDING = 0  # masked, so any id will do


class _Row(NamedTuple):
    """A context and texts behind it: token ids, positions, and for each token its text's number or -1."""

    ids: list[int]
    positions: list[int]
    owner: list[int]
    length: int  # of the context


@torch.inference_mode()
def token_logprobs(model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Values]:
    """Log-probability (natural) of every token of the texts, in the order given.

    Args:
        pairs: token ids of a context, at least one, and of the text after it.
    """
    found: list[Values] = [np.zeros(0)] * len(pairs)
    rows = sorted(_rows(pairs), key=lambda row: len(row.ids))
    while rows:
        longest = -(-len(rows[-1].ids) // LENGTH) * LENGTH
        count = max(PASS_TOKENS // longest, 1)
        for number, values in _pass(model, rows[-count:], count, longest):
            found[number] = values
        del rows[-count:]
    return found


def _rows(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[_Row]:
    """Texts by context; a context whose texts do not fit in a pass has several rows."""
    rows: list[_Row] = []
    open_rows: dict[tuple[int, ...], _Row] = {}
    for number, (context, text) in enumerate(pairs):
        if not text:
            continue
        key = tuple(context)
        row = open_rows.get(key)
        if row is None or len(row.ids) + len(text) > PASS_TOKENS:
            row = open_rows[key] = _Row([*key], [*range(len(key))], [-1] * len(key), len(key))
            rows.append(row)
        row.ids.extend(text)
        row.positions.extend(range(row.length, row.length + len(text)))
        row.owner.extend([number] * len(text))
    return rows


def _pass(model: Any, rows: Sequence[_Row], count: int, longest: int) -> list[tuple[int, Values]]:
    """Values of the texts in these rows; the pass has `count` rows of `longest` tokens, whatever of it is padding."""
    device = model.device
    ids = torch.full((count, longest), PADDING)
    positions, owner = torch.zeros_like(ids), torch.full_like(ids, -2)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        positions[place, : len(row.ids)] = torch.tensor(row.positions)
        owner[place, : len(row.ids)] = torch.tensor(row.owner)
    mine, seen = owner.unsqueeze(2), owner.unsqueeze(1)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = (causal & ((seen == -1) | (seen == mine))).unsqueeze(1)  # padding sees itself, or softmax has no entry
    output = model.base_model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        use_cache=False,
    )
    at, columns = (owner >= 0).nonzero(as_tuple=True)
    lengths = torch.tensor([row.length for row in rows])[at]
    before = torch.where(positions[at, columns] == lengths, lengths - 1, columns - 1)
    hidden = output.last_hidden_state[at.to(device), before.to(device)]
    logprobs = _logprobs(model.get_output_embeddings(), hidden, ids[at, columns].to(device)).double().cpu().numpy()
    numbers = owner[at, columns].numpy()
    return [(int(number), logprobs[numbers == number]) for number in np.unique(numbers)]


def _logprobs(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """(K,) float32 log-probabilities of the targets after these hidden states, (K, D)."""
    parts = []
    missing = -len(hidden) % LOGIT_ROWS
    hidden, padded = F.pad(hidden, (0, 0, 0, missing)), F.pad(targets, (0, missing))
    for part, wanted in zip(torch.split(hidden, LOGIT_ROWS), torch.split(padded, LOGIT_ROWS), strict=True):
        logits = head(part).float()
        parts.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1))
    return torch.cat(parts)[: len(targets)]
