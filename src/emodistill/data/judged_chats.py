"""What JPO trains on: episode chats that know their judge's questions, and contexts to speak in.

A batch is a plain object with a `to` method, not a NamedTuple: Lightning looks for tensors inside tuples, lists and
dataclasses, and refuses the frozen dataclasses that scenarios and turns are.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from emodistill.data.chats import ChatEncoder, EncodedChat, scenario_group
from emodistill.data.contexts import ChatContext
from emodistill.data.resumable import ResumableBatches
from emodistill.data.schema import Episode
from emodistill.data.selection import judge_requests
from emodistill.judges.request import JudgeRequest
from emodistill.policy.tokens import Chats, collate_chats


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


class JudgedBatch:
    """Chats of the corpus; `items[i].places` are the group places of row i's utterances, in order."""

    def __init__(self, items: Sequence[JudgedChat], chats: Chats) -> None:
        self.items, self.chats = list(items), chats

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "JudgedBatch":
        return JudgedBatch(self.items, self.chats.to(device, non_blocking))

    def __len__(self) -> int:
        return len(self.items)


class ContextBatch:
    """Situations to speak in; nothing of it is a tensor yet.

    Attributes:
        following: makes the batches that come after this one in its epoch, where the loader knows them.
    """

    def __init__(self, contexts: Sequence[ChatContext]) -> None:
        self.contexts = list(contexts)
        self.following: Callable[[], Iterator[ContextBatch]] = lambda: iter(())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ContextBatch":
        return self

    def __len__(self) -> int:
        return len(self.contexts)


class ContextBatches(ResumableBatches[ChatContext]):
    """Context batches that say what comes after them, so that it can be spoken of while this one is judged."""

    def __init__(self, items: Sequence[ChatContext], batch_size: int, seed: int) -> None:
        super().__init__(items, batch_size, seed, collate_contexts)

    def _batch(self, order: list[int], number: int) -> ContextBatch:
        batch: ContextBatch = super()._batch(order, number)
        batch.following = lambda: (self._batch(order, later) for later in range(number + 1, len(self)))
        return batch


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
    if encoder.chat_format.emotions == "hidden":  # nobody was asked for an emotion, and nobody is scored on one
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


def collate_judged(items: Sequence[JudgedChat], pad_id: int) -> JudgedBatch:
    """A batch for JPO on the corpus's own utterances."""
    return JudgedBatch(items, collate_chats([(item.chat.input_ids, item.chat.utterance) for item in items], pad_id))


def collate_contexts(contexts: Sequence[ChatContext]) -> ContextBatch:
    """A batch for JPO on utterances sampled from the policy."""
    return ContextBatch(contexts)
