"""Pairs of lines to prefer between: what the teacher says with the emotion that is asked for, and with another one.

Context, offer and teacher are the same for both, so all that a policy can learn from a pair is which words show which
emotion. The lines are the phrasebook's; no judge is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from emodistill.data.chats import ChatContext
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.token_batches import Chats, pack_replies


@dataclass(frozen=True)
class PreferencePair:
    """Two replies to one context, as token ids with their end."""

    context: ChatContext
    chosen: list[int]
    rejected: list[int]


class PairBatch:
    """Pairs to learn from: one packed row a pair, utterance 2i the chosen reply of pair i, 2i + 1 the rejected one.

    Attributes:
        counts: False where it only keeps step with the other ranks, see `ResumableBatches`.
    """

    def __init__(self, pairs: Sequence[PreferencePair], chats: Chats, counts: bool = True) -> None:
        self.pairs, self.chats, self.counts = list(pairs), chats, counts

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PairBatch":
        return PairBatch(self.pairs, self.chats.to(device, non_blocking), self.counts)

    def __len__(self) -> int:
        return len(self.pairs)


def collate_pairs(pairs: Sequence[PreferencePair], pad_id: int) -> PairBatch:
    """A batch for learning from preferences."""
    replies = [[pair.chosen, pair.rejected] for pair in pairs]
    return PairBatch(pairs, pack_replies([pair.context.input_ids for pair in pairs], replies, pad_id))


def preference_pairs(
    contexts: Sequence[ChatContext], chat_format: ChatFormat, seed: tuple[int, ...]
) -> list[PreferencePair]:
    """One pair for every context that asks for an emotion; the other emotion is drawn evenly from the vocabulary.

    Args:
        contexts: of the training split, as the policy meets them.
        seed: fixes the other emotion and both lines.

    Raises:
        UserError: if the phrasebook cannot speak the vocabulary or the domain.
    """
    teacher, labels = PhrasebookSpeaker(chat_format.vocabulary), chat_format.vocabulary.labels
    found = []
    for number, context in enumerate(contexts):
        if context.emotion is None:
            continue
        rng = np.random.default_rng((*seed, number))
        place = chat_format.vocabulary.index(context.emotion)
        other = labels[(place + 1 + int(rng.integers(len(labels) - 1))) % len(labels)]
        told = (context.scenario, context.history, context.act, context.offer)
        lines = [teacher.line_after(*told, emotion, int(rng.integers(2**31))) for emotion in (context.emotion, other)]
        chosen, rejected = (
            chat_format.spoken(emotion, text) for emotion, text in zip((context.emotion, other), lines, strict=True)
        )
        found.append(PreferencePair(context, chosen, rejected))
    return found
