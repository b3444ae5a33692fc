"""What the two language-model stages see of the corpus: episode chats for SFT, judged chats or contexts for JPO."""

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from emodistill.data.chats import ChatEncoder, EncodedChat, collate_encoded, encode_chats, encode_contexts
from emodistill.data.contexts import ChatContext
from emodistill.data.judged_chats import ContextBatches, JudgedChat, collate_contexts, collate_judged, judged_chats
from emodistill.data.resumable import ResumableBatches
from emodistill.data.schema import Episode
from emodistill.data.selection import Selection
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.language_models.local import load_tokenizer
from emodistill.negotiation.prompts import Emotions
from emodistill.policy.chat import ChatFormat

logger = logging.getLogger(__name__)


class ChatSource:
    """Turns episodes into tokens for one base model.

    Args:
        base_model: name, folder or hub id; only its tokenizer is used here.
        vocabulary: name of the emotion vocabulary.
        max_tokens: a longer chat loses whole early rounds.
        offers_told: see `ChatEncoder`.
        emotions: how emotions enter the chat, see `ChatFormat`.
    """

    def __init__(
        self,
        base_model: str,
        vocabulary: str,
        max_tokens: int,
        offers_told: bool = True,
        emotions: Emotions = "told",
    ) -> None:
        if emotions not in get_args(Emotions):
            raise UserError(f"emotions={emotions}: use one of {', '.join(get_args(Emotions))}")
        self.base_model, self.vocabulary, self.max_tokens = base_model, load_vocabulary(vocabulary), max_tokens
        self.offers_told, self.emotions = offers_told, emotions

    def open(self) -> tuple[ChatEncoder, int]:
        """An encoder, and the token id to pad with."""
        tokenizer = load_tokenizer(self.base_model)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        chat_format = ChatFormat(tokenizer, self.vocabulary, self.emotions)
        return ChatEncoder(chat_format, self.max_tokens, self.offers_told), int(pad)


class ChatView:
    """Episode chats for SFT: every selected focal turn of an episode is learnt from in one pass.

    Args:
        source: how episodes become tokens.
        selection: which turns to learn from; the same rule chooses the validation turns.
        batch_size: chats a batch.
        validation_chats: how many chats of the val split are validated on, spread evenly over it.
        validation_contexts: in how many situations of the val split the policy speaks at each validation.
        reply_tokens: room that is kept for a reply.
    """

    def __init__(
        self,
        source: ChatSource,
        selection: Selection,
        batch_size: int,
        validation_chats: int,
        validation_contexts: int,
        reply_tokens: int,
    ) -> None:
        self.source, self.selection = source, selection
        self.batch_size, self.validation_chats = batch_size, validation_chats
        self.validation_contexts, self.reply_tokens = validation_contexts, reply_tokens
        self.transition_facts: dict[str, Any] = {}

    def prepare(self, train: Sequence[Episode], validation: Sequence[Episode]) -> None:
        encoder, self.pad = self.source.open()
        self.situations = validation_situations(validation, encoder, self.validation_contexts, self.reply_tokens)
        self.train = encode_chats(train, self.selection(train), encoder)
        self.validation = spread(encode_chats(validation, self.selection(validation), encoder), self.validation_chats)
        report(encoder, self.train)

    def train_batches(self, seed: int) -> ResumableBatches[EncodedChat]:
        return ResumableBatches(self.train, self.batch_size, seed, lambda chats: collate_encoded(chats, self.pad))

    def validation_batches(self) -> list[Any]:
        chats, size = self.validation, self.batch_size
        return [collate_encoded(chats[i : i + size], self.pad) for i in range(0, len(chats), size)]


class JudgedView:
    """Judged chats for JPO: what the corpus says, or situations in which the policy speaks now.

    Args:
        source: how episodes become tokens.
        selection: which turns are compared with each other, or spoken anew.
        utterances: `corpus` or `sampled`.
        batch_size: chats (or contexts) a batch.
        validation_contexts: in how many situations of the val split the policy speaks at each validation.
        reply_tokens: room that is kept for a reply.
        advantages: a value for each turn that stands in for the judge's score; needed where there is no judge.
        validation_chats: validate on the words of so many chats of the val split, spread evenly over it; None lets the
            policy speak, which a judge has to score.
    """

    def __init__(
        self,
        source: ChatSource,
        selection: Selection,
        utterances: Literal["corpus", "sampled"],
        batch_size: int,
        validation_contexts: int,
        reply_tokens: int,
        advantages: Any = None,
        validation_chats: int | None = None,
    ) -> None:
        if utterances not in ("corpus", "sampled"):
            raise UserError(f"utterances={utterances}: use corpus (its own words) or sampled (the policy's)")
        self.source, self.selection, self.utterances = source, selection, utterances
        self.batch_size, self.validation_contexts, self.reply_tokens = batch_size, validation_contexts, reply_tokens
        self.advantages, self.validation_chats = advantages, validation_chats
        self.transition_facts: dict[str, Any] = {}

    def prepare(self, train: Sequence[Episode], validation: Sequence[Episode]) -> None:
        encoder, self.pad = self.source.open()
        chosen = self.selection(train)
        self.items: list[Any]  # JudgedChat or ChatContext
        if self.utterances == "corpus":
            self.items = judged_chats(train, chosen, encoder, self._values(train))
        else:
            self.items = encode_contexts(train, chosen, encoder, self.reply_tokens)
        self.situations = validation_situations(validation, encoder, self.validation_contexts, self.reply_tokens)
        self.validation: list[JudgedChat] = []
        if self.validation_chats is not None:
            chats = judged_chats(validation, self.selection(validation), encoder, self._values(validation))
            self.validation = spread(chats, self.validation_chats)
        report(encoder, self.items)

    def _values(self, episodes: Sequence[Episode]) -> list[list[float | None]] | None:
        """What is known of every focal turn beforehand; nothing of a turn that shows no emotion."""
        if not self.advantages:
            return None
        return [[None if math.isnan(value) else float(value) for value in row] for row in self.advantages(episodes)]

    def train_batches(self, seed: int) -> ResumableBatches[Any]:
        if self.utterances == "sampled":
            return ContextBatches(self.items, self.batch_size, seed)
        return ResumableBatches(self.items, self.batch_size, seed, lambda items: collate_judged(items, self.pad))

    def validation_batches(self) -> list[Any]:
        size = self.batch_size
        if self.validation_chats is not None:
            chats = self.validation
            return [collate_judged(chats[i : i + size], self.pad) for i in range(0, len(chats), size)]
        return [collate_contexts(self.situations[i : i + size]) for i in range(0, len(self.situations), size)]


def validation_situations(
    episodes: Sequence[Episode], encoder: ChatEncoder, count: int, reply_tokens: int
) -> list[ChatContext]:
    """`count` situations in which the focal side proposes with an emotion, spread evenly over the episodes."""
    wanted = [
        [
            episode.end != "invalid" and turn.act == "propose" and turn.emotion is not None
            for turn in episode.focal_turns
        ]
        for episode in episodes
    ]
    places = [(k, i) for k, mask in enumerate(wanted) for i, yes in enumerate(mask) if yes]
    kept = set(spread(places, count))
    masks = [[(k, i) in kept for i in range(len(mask))] for k, mask in enumerate(wanted)]
    return encode_contexts(episodes, masks, encoder, reply_tokens)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items at even distances, first to last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]


def report(encoder: ChatEncoder, items: Sequence[Any]) -> None:
    """Say how much there is to learn from, and what did not fit."""
    logger.info(
        "%d chats; too long for max_tokens=%d: %d early rounds (%d selected turns) and %d whole chats left out",
        len(items),
        encoder.max_tokens,
        encoder.dropped_rounds,
        encoder.dropped_turns,
        encoder.too_long,
    )
