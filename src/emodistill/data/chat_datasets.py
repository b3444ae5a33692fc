"""What the two language-model stages see of the corpus: episode chats for SFT, judged chats or contexts for JPO.

Both stages turn episodes into tokens by a `ChatSource`; `SFTDataset` and `JPODataset` follow with the batches that they
serve, and at the end what both need for validation.

A batch is a plain object with a `to` method, not a NamedTuple: Lightning looks for tensors inside tuples, lists and
dataclasses, and refuses the frozen dataclasses that scenarios and turns are.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import torch

from emodistill.data.batches import ResumableBatches, ResumableLoader
from emodistill.data.chats import (
    ChatContext,
    ChatEncoder,
    Encoded,
    EncodedChat,
    collate_encoded,
    contexts_by_episode,
    encode_chats,
    encode_contexts,
    scenario_group,
)
from emodistill.data.preference_pairs import PairBatch, PreferencePair, collate_pairs, preference_pairs
from emodistill.data.schema import Episode
from emodistill.data.selection import Mask, Selection, judge_requests
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.request import JudgeRequest
from emodistill.language_models.local import context_of, load_tokenizer
from emodistill.negotiation.prompts import Emotions
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.token_batches import Chats

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
TURNS = 4  # contexts of one episode that are spoken in together
PAIR_SEED = 0  # of the teacher's lines: they are data, the same whatever is trained on them


class ChatSource:
    """Turns episodes into tokens for one base model.

    Args:
        base_model: name, folder or hub id; only its tokenizer and its configuration are used here.
        vocabulary: name of the emotion vocabulary.
        max_tokens: a longer chat loses whole early rounds, and so does one that the model could not take.
        offers_told: see `ChatEncoder`.
        emotions: how emotions enter the chat, see `ChatFormat`.
        context: most tokens of a chat, where fewer than the model's configuration says are wanted.
    """

    def __init__(
        self,
        base_model: str,
        vocabulary: str,
        max_tokens: int,
        offers_told: bool = True,
        emotions: Emotions = "prompted",
        context: int | None = None,
    ) -> None:
        if emotions not in get_args(Emotions):
            raise UserError(f"emotions={emotions}: use one of {', '.join(get_args(Emotions))}")
        self.base_model, self.vocabulary = base_model, load_vocabulary(vocabulary)
        self.max_tokens = min(max_tokens, context or max_tokens)
        self.offers_told, self.emotions = offers_told, emotions

    def open(self) -> tuple[ChatEncoder, int]:
        """An encoder, and the token id to pad with."""
        tokenizer = load_tokenizer(self.base_model)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        chat_format = ChatFormat(tokenizer, self.vocabulary, self.emotions)
        max_tokens = min(self.max_tokens, context_of(self.base_model))
        return ChatEncoder(chat_format, max_tokens, self.offers_told), int(pad)


class SFTBatch:
    """Chats to learn from.

    Attributes:
        tokens_of: supervised tokens of the batches `first` to `last` (excluded) of this epoch, of all ranks together:
            the loss is a mean over the tokens of an optimizer step, which may take several batches.
        weights: how much each utterance counts, (U,) float32; their mean over the selected turns is 1.
        counts: False where it only keeps step with the other ranks, see `ResumableBatches`.
    """

    def __init__(
        self, chats: Chats, tokens_of: Callable[[int, int], int], weights: torch.Tensor, counts: bool = True
    ) -> None:
        self.chats, self.tokens_of, self.weights, self.counts = chats, tokens_of, weights, counts

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SFTBatch":
        weights = self.weights.to(device, non_blocking=non_blocking)
        return SFTBatch(self.chats.to(device, non_blocking), self.tokens_of, weights, self.counts)

    def __len__(self) -> int:
        return len(self.chats.input_ids)


class SFTBatches(ResumableBatches[EncodedChat]):
    """Batches of chats that know how many tokens their optimizer step has."""

    def __init__(self, items: Sequence[EncodedChat], batch_size: int, seed: int, pad_id: int) -> None:
        super().__init__(items, batch_size, seed, self._collated)
        self.pad_id = pad_id

    def _collated(self, chats: list[EncodedChat]) -> SFTBatch:
        weights = torch.tensor([weight for chat in chats for weight in chat.weights])
        return SFTBatch(collate_encoded(chats, self.pad_id), lambda first, last: 0, weights)

    def _batch(self, order: list[int], number: int) -> SFTBatch:
        def tokens_of(first: int, last: int) -> int:
            places = range(first * self.world_size, last * self.world_size)
            chats = [chat for place in places for chat in self._items(order, place)]
            return sum(owner >= 0 for chat in chats for owner in chat.utterance)

        batch: SFTBatch = super()._batch(order, number)
        batch.tokens_of = tokens_of
        return batch


class SFTDataset:
    """Episode chats for SFT: every selected focal turn of an episode is learnt from in one pass.

    Args:
        source: how episodes become tokens.
        selection: which turns to learn from; the same rule chooses the validation turns.
        batch_size: chats a batch.
        validation_chats: how many chats of the val split are validated on, spread evenly over it.
        validation_contexts: in how many contexts of the val split the policy speaks at each validation.
        reply_tokens: room that is kept for a reply.
        weights: of episodes and masks of their selected turns, how much each focal turn counts; None counts all alike.
            Validation counts all alike.
    """

    loader: type[ResumableLoader] = SFTBatches

    def __init__(
        self,
        source: ChatSource,
        selection: Selection,
        batch_size: int,
        validation_chats: int,
        validation_contexts: int,
        reply_tokens: int,
        weights: Callable[[Sequence[Episode], Sequence[Mask]], Sequence[Sequence[float]]] | None = None,
    ) -> None:
        self.source, self.selection, self.weights = source, selection, weights
        self.batch_size, self.validation_chats = batch_size, validation_chats
        self.validation_contexts, self.reply_tokens = validation_contexts, reply_tokens
        self.dataset_stats: dict[str, Any] = {}

    def prepare(self, train: Sequence[Episode], validation: Sequence[Episode]) -> None:
        self.encoder, self.pad = self.source.open()  # of training, whose chats are encoded as they are served
        encoder = self.encoder.anew()  # of validation, which counts for itself what does not fit
        chosen = self.selection(train)
        weights = self.weights(train, chosen) if self.weights else None
        self.train = encode_chats(train, chosen, self.encoder, weights)
        self.contexts = validation_contexts(validation, encoder, self.validation_contexts, self.reply_tokens)
        self.validation = spread(encode_chats(validation, self.selection(validation), encoder), self.validation_chats)
        report("validation", encoder, len(self.validation) + len(self.contexts))

    def finish(self) -> None:
        """Say how much of the training chats did not fit."""
        report("training", self.encoder, len(self.train))

    def train_batches(self, seed: int) -> SFTBatches:
        return SFTBatches(self.train, self.batch_size, seed, self.pad)

    def validation_batches(self) -> list[Any]:
        return [collate_encoded(list(chats), self.pad) for chats in in_batches(self.validation, self.batch_size)]


@dataclass(frozen=True)
class Group:
    """All chosen turns of one scenario: scores are compared within it.

    Attributes:
        requests: the judge's question for every turn.
        values: a number for every turn that was known beforehand (an advantage of IQL, say), for training without a
            judge; None where there is none.
    """

    name: str
    requests: tuple[JudgeRequest, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class JudgedChat:
    """One episode's chat with the place of each of its utterances in the scenario's group."""

    chat: EncodedChat
    group: Group
    places: list[int]

    @property
    def key(self) -> str:
        """Sixteen hex digits of the tokens and of what is scored: names this chat in the cache of the reference."""
        content = repr((self.chat.input_ids, self.chat.utterance)).encode()
        return hashlib.sha256(content).hexdigest()[:16]


def judged_chats(
    episodes: Sequence[Episode],
    selected: Sequence[Sequence[bool]],
    encoder: ChatEncoder,
    values: Sequence[Sequence[float | None]] | None = None,
) -> list[JudgedChat]:
    """The chats of all episodes in which something is chosen, grouped by scenario.

    A turn whose round did not fit is not trained on, but it was said, so it still counts in its group.

    Args:
        values: for every focal turn of every episode a number known beforehand; see `Group`.
    """
    asked = [judge_requests(episode) for episode in episodes]
    if encoder.chat_format.emotions == "none":  # nobody was asked for an emotion, and nobody is scored on one
        asked = [[replace(request, emotion=None) for request in requests] for requests in asked]
    members: dict[str, list[tuple[int, int]]] = {}
    for i, (episode, chosen) in enumerate(zip(episodes, selected, strict=True)):
        members.setdefault(scenario_group(episode), []).extend((i, turn) for turn, yes in enumerate(chosen) if yes)
    groups, places = {}, {}
    for name, turns in members.items():
        requests = tuple(asked[i][turn] for i, turn in turns)
        known = tuple(None if values is None else values[i][turn] for i, turn in turns)
        groups[name] = Group(name, requests, known)
        places.update({turn: place for place, turn in enumerate(turns)})
    chats = [encoder.encode(episode, chosen) for episode, chosen in zip(episodes, selected, strict=True)]
    return [
        JudgedChat(chat, groups[scenario_group(episodes[i])], [places[i, turn] for turn in chat.turns])
        for i, chat in enumerate(chats)
        if chat is not None
    ]


class JudgedBatch:
    """Chats of the corpus; `items[i].places` are the group places of row i's utterances, in order.

    Attributes:
        counts: False where it only keeps step with the other ranks, see `ResumableBatches`.
    """

    def __init__(self, items: Sequence[JudgedChat], chats: Chats, counts: bool = True) -> None:
        self.items, self.chats, self.counts = list(items), chats, counts

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "JudgedBatch":
        return JudgedBatch(self.items, self.chats.to(device, non_blocking), self.counts)

    def __len__(self) -> int:
        return len(self.items)


def collate_judged(items: Sequence[JudgedChat], pad_id: int) -> JudgedBatch:
    """A batch for JPO on the corpus's own utterances."""
    return JudgedBatch(items, collate_encoded([item.chat for item in items], pad_id))


class ContextBatch:
    """Contexts to speak in; nothing of it is a tensor yet.

    Attributes:
        following: makes the batches that come after this one in its epoch, where the loader knows them.
        number: of this batch among those of its rank in the epoch.
        before: how many contexts all ranks together have before it, from their batches of a given number on. It
            numbers the contexts of a step, whichever rank speaks in them.
        counts: False where it only keeps step with the other ranks, see `ResumableBatches`.
    """

    def __init__(self, contexts: Sequence[ChatContext]) -> None:
        self.contexts, self.number, self.counts = list(contexts), 0, True
        self.following: Callable[[], Iterator[ContextBatch]] = lambda: iter(())
        self.before: Callable[[int], int] = lambda first: 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ContextBatch":
        return self

    def __len__(self) -> int:
        return len(self.contexts)


class ContextBatches(ResumableBatches[Sequence[ChatContext]]):
    """Context batches that say what comes after them, so that it can be spoken of while this one is judged.

    Args:
        items: contexts of one episode each, which are spoken in together: they share what was said before.
        batch_size: episodes a batch.
    """

    def __init__(self, items: Sequence[Sequence[ChatContext]], batch_size: int, seed: int) -> None:
        super().__init__(items, batch_size, seed, lambda episodes: ContextBatch([c for own in episodes for c in own]))

    def _batch(self, order: list[int], number: int) -> ContextBatch:
        batch: ContextBatch = super()._batch(order, number)
        batch.following = lambda: (self._batch(order, later) for later in range(number + 1, len(self)))

        def before(first: int) -> int:
            places = range(first * self.world_size, number * self.world_size + self.rank)
            return sum(len(own) for place in places for own in self._items(order, place))

        batch.number, batch.before = number, before
        return batch


class JPODataset:
    """For JPO: what the corpus says, contexts in which the policy speaks now, or pairs of lines to prefer between.

    Args:
        source: how episodes become tokens.
        selection: which turns are compared with each other, or spoken anew.
        utterances: `corpus`, `sampled` or `pairs`.
        batch_size: chats (or episodes, whose contexts are spoken in or have pairs of lines) a batch.
        validation_contexts: in how many contexts of the val split the policy speaks at each validation.
        reply_tokens: room that is kept for a reply.
        advantages: a value for each turn that stands in for the judge's score; needed where there is no judge.
        validation_chats: validate on the words of so many chats of the val split, spread evenly over it; None lets the
            policy speak, which a judge has to score.
        turns_per_chat: most contexts of one episode, at even distances. Together they cost little more than the last
            of them alone, for they share what was said before.
        choices: the emotion that is asked for in each context in place of the corpus's own, as in play; None keeps the
            corpus's. It serves a policy that is told its emotions.
    """

    loader: type[ResumableLoader] = ResumableBatches

    def __init__(
        self,
        source: ChatSource,
        selection: Selection,
        utterances: Literal["corpus", "sampled", "pairs"],
        batch_size: int,
        validation_contexts: int,
        reply_tokens: int,
        advantages: Any = None,
        validation_chats: int | None = None,
        choices: Callable[[Sequence[Episode]], list[list[str]]] | None = None,
        turns_per_chat: int = TURNS,
    ) -> None:
        if utterances not in ("corpus", "sampled", "pairs"):
            raise UserError(
                f"utterances={utterances}: use corpus (its own words), sampled (the policy's) or pairs (the teacher's)"
            )
        if utterances == "pairs" and source.emotions != "prompted":
            raise UserError("pairs of lines differ by the emotion that is asked for; use emotions=prompted")
        self.source, self.selection, self.utterances = source, selection, utterances
        self.batch_size, self.validation_contexts, self.reply_tokens = batch_size, validation_contexts, reply_tokens
        self.advantages, self.validation_chats, self.choices = advantages, validation_chats, choices
        self.turns_per_chat = turns_per_chat
        self.dataset_stats: dict[str, Any] = {}

    def prepare(self, train: Sequence[Episode], validation: Sequence[Episode]) -> None:
        self.encoder, self.pad = self.source.open()  # of training, whose contexts are encoded as they are served
        encoder = self.encoder.anew()  # of validation, which counts for itself what does not fit
        chosen = self.selection(train)
        self.items: Sequence[Any]  # JudgedChat, contexts of an episode, or PreferencePair
        if self.utterances == "corpus":
            self.items = judged_chats(train, chosen, self.encoder, self._values(train))
        else:
            few = [spread_mask(mask, self.turns_per_chat) for mask in chosen]
            self.items = contexts_by_episode(train, few, self.encoder, self.reply_tokens, self._choices(train))
            if self.utterances == "pairs":
                contexts, chat_format = self.items, encoder.chat_format
                self.items = Encoded(
                    lambda place: preference_pairs(contexts[place], chat_format, (PAIR_SEED, place)),
                    range(len(contexts)),
                )
        self.contexts = validation_contexts(
            validation, encoder, self.validation_contexts, self.reply_tokens, self._choices(validation)
        )
        self.validation: list[JudgedChat] = []
        if self.validation_chats is not None:
            chats = judged_chats(validation, self.selection(validation), encoder, self._values(validation))
            self.validation = spread(chats, self.validation_chats)
        report("validation", encoder, len(self.validation) + len(self.contexts))

    def finish(self) -> None:
        """Say how much of the training chats did not fit."""
        report("training", self.encoder, len(self.items))

    def _choices(self, episodes: Sequence[Episode]) -> list[list[str]] | None:
        return self.choices(episodes) if self.choices and self.source.emotions == "prompted" else None

    def _values(self, episodes: Sequence[Episode]) -> list[list[float | None]] | None:
        """What is known of every focal turn beforehand; nothing of a turn that shows no emotion."""
        if not self.advantages:
            return None
        return [[None if math.isnan(value) else float(value) for value in row] for row in self.advantages(episodes)]

    def train_batches(self, seed: int) -> ResumableBatches[Any]:
        if self.utterances == "sampled":
            return ContextBatches(self.items, self.batch_size, seed)
        if self.utterances == "pairs":
            return ResumableBatches(self.items, self.batch_size, seed, self._pairs)
        return ResumableBatches(self.items, self.batch_size, seed, lambda items: collate_judged(items, self.pad))

    def _pairs(self, by_episode: Sequence[Sequence[PreferencePair]]) -> PairBatch:
        return collate_pairs([pair for own in by_episode for pair in own], self.pad)

    def validation_batches(self) -> list[Any]:
        if self.validation_chats is not None:
            return [collate_judged(chats, self.pad) for chats in in_batches(self.validation, self.batch_size)]
        return [ContextBatch(self.contexts)] if self.contexts else []  # in one: many rows are spoken as fast as few


def validation_contexts(
    episodes: Sequence[Episode],
    encoder: ChatEncoder,
    count: int,
    reply_tokens: int,
    emotions: Sequence[Sequence[str | None]] | None = None,
) -> list[ChatContext]:
    """`count` contexts in which the focal side proposes with an emotion, spread evenly over the episodes.

    Up to `TURNS` of an episode are taken together: they share what was said before, and cost less than as many apart.

    Args:
        emotions: by episode, what each focal turn is asked to show in place of its own.
    """
    wanted = [
        [
            episode.end != "invalid" and turn.act == "propose" and turn.emotion is not None
            for turn in episode.focal_turns
        ]
        for episode in episodes
    ]
    few = [spread_mask(mask, TURNS) for mask in wanted]
    spoken = [k for k, mask in enumerate(few) if any(mask)]
    together = set(spread(spoken, -(-count // TURNS)))
    masks = [[yes and k in together for yes in mask] for k, mask in enumerate(few)]
    found = encode_contexts(episodes, masks, encoder, reply_tokens, emotions)
    if len(found) < count:  # some of these have fewer turns: single turns, evenly from all episodes
        places = [(k, turn) for k in spoken for turn, yes in enumerate(few[k]) if yes]
        asked: Sequence[Sequence[str | None] | None] = emotions or [None] * len(episodes)
        fitting = [(k, turn) for k, turn in places if encoder.fits(episodes[k], turn, reply_tokens, asked[k])]
        single = set(spread(fitting, count))
        masks = [[(k, turn) in single for turn in range(len(mask))] for k, mask in enumerate(few)]
        found = encode_contexts(episodes, masks, encoder, reply_tokens, emotions)
    return found[:count]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items at even distances, first to last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]


def spread_mask(mask: Sequence[bool], count: int) -> list[bool]:
    """The mask with at most `count` of its places, at even distances."""
    kept = set(spread([place for place, yes in enumerate(mask) if yes], count))
    return [place in kept for place in range(len(mask))]


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """The items in order, `size` at a time."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def report(what: str, encoder: ChatEncoder, chats: int) -> None:
    """Say how many chats there are and what did not fit of those that were read."""
    logger.info(
        "%s: %d chats; too long for max_tokens=%d in those read: %d early rounds (%d selected turns), %d whole chats",
        what,
        chats,
        encoder.max_tokens,
        encoder.dropped_rounds,
        encoder.dropped_turns,
        encoder.too_long,
    )
