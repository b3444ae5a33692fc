"""How likely a local model finds texts, token by token, each after a short context.

Texts that share a context lie behind it: each attends to the context and to itself, and is numbered as if it came right
after the context, so the context goes through the model once for all of them. Contexts with their texts lie end to end
in one row, without padding between them. Only the tokens of the texts get logits, in float32. A model that cannot be
told which token sees which reads every text behind its context by itself.

Shapes: L tokens of a pass, K text tokens among them, D hidden units.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from emodistill.language_models.attention_masks import mask_for, takes_masks
from emodistill.language_models.logits import LogitRule

Values = NDArray[np.float64]
PASS_TOKENS = 1024  # that go through the model together
LENGTH = 128  # a pass has a multiple of it: CPU libraries keep memory for every new shape
LOGIT_ROWS = 64  # text tokens that get logits at a time: 64 x 49,152 floats are 13 MB
PADDING = 0  # masked, so any id will do


class _Piece(NamedTuple):
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
    together = takes_masks(model)
    for pieces in _passes(_pieces(pairs)) if together else _alone(pairs):
        for number, values in _pass(model, pieces):
            found[number] = values
    return found


def _pieces(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[_Piece]:
    """Texts by context; a context whose texts do not fit in a pass is there several times."""
    pieces: list[_Piece] = []
    open_pieces: dict[tuple[int, ...], _Piece] = {}
    for number, (context, text) in enumerate(pairs):
        if not text:
            continue
        key = tuple(context)
        piece = open_pieces.get(key)
        if piece is None or len(piece.ids) + len(text) > PASS_TOKENS:
            piece = open_pieces[key] = _Piece([*key], [*range(len(key))], [-1] * len(key), len(key))
            pieces.append(piece)
        piece.ids.extend(text)
        piece.positions.extend(range(piece.length, piece.length + len(text)))
        piece.owner.extend([number] * len(text))
    return pieces


def _alone(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[list[_Piece]]:
    """A pass for every text."""
    for number, (context, text) in enumerate(pairs):
        if text:
            ids, start = [*context, *text], len(context)
            yield [_Piece(ids, [*range(len(ids))], [-1] * start + [number] * len(text), start)]


def _passes(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """As many at a time as fit, at least one."""
    taken: list[_Piece] = []
    for piece in pieces:
        if taken and sum(len(one.ids) for one in taken) + len(piece.ids) > PASS_TOKENS:
            yield taken
            taken = []
        taken.append(piece)
    if taken:
        yield taken


def _pass(model: Any, pieces: Sequence[_Piece]) -> list[tuple[int, Values]]:
    """The number of each text in these pieces, and its values."""
    device = model.device
    used = sum(len(piece.ids) for piece in pieces)
    total = -(-used // LENGTH) * LENGTH
    ids, positions = torch.full((total,), PADDING), torch.zeros(total, dtype=torch.long)
    owner, place = torch.full((total,), -1), torch.full((total,), -1)
    before = torch.arange(total) - 1  # the token after which each one is predicted
    start = 0
    for number, piece in enumerate(pieces):
        end = start + len(piece.ids)
        ids[start:end], positions[start:end] = torch.tensor(piece.ids), torch.tensor(piece.positions)
        owner[start:end], place[start:end] = torch.tensor(piece.owner), number
        before[start:end][positions[start:end] == piece.length] = start + piece.length - 1  # a text's first
        start = end
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    mask = causal & (place == place[:, None]) & ((owner == -1) | (owner == owner[:, None]))  # padding sees padding
    places = positions[None].to(device)
    if takes_masks(model):
        given = {"attention_mask": mask_for(model, mask[None, None].to(device), places, places), "position_ids": places}
    else:  # one text, and padding on its right, which nothing sees
        given = {}
    output = model.base_model(input_ids=ids[None].to(device), use_cache=False, **given)
    at = (owner >= 0).nonzero()[:, 0]
    hidden = output.last_hidden_state[0, before[at].to(device)]
    logprobs = _logprobs(model, hidden, ids[at].to(device)).double().cpu().numpy()
    numbers = owner[at].numpy()
    return [(int(number), logprobs[numbers == number]) for number in np.unique(numbers)]


def _logprobs(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """(K,) float32 log-probabilities of the targets after these hidden states, (K, D)."""
    parts, head, rule = [], model.get_output_embeddings(), LogitRule.of(model)
    missing = -len(hidden) % LOGIT_ROWS
    hidden, padded = F.pad(hidden, (0, 0, 0, missing)), F.pad(targets, (0, missing))
    for part, wanted in zip(torch.split(hidden, LOGIT_ROWS), torch.split(padded, LOGIT_ROWS), strict=True):
        logits = rule(head(part).float())
        parts.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1))
    return torch.cat(parts)[: len(targets)]
