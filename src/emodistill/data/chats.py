"""Episodes as training chats: one chat an episode, in which only the chosen focal turns are learnt from.

A chat ends after its last chosen turn, because nothing behind it would be used. One that is too long loses whole early
rounds and keeps the system message; a reply is never cut. Both losses are counted, for somebody should be told.

`ChatEncoder` gives an `EncodedChat` for each episode, or a `ChatContext` for each chosen turn: all that stands before
it, for a policy that speaks there itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, overload

from emodistill.data.schema import Episode
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.judges.request import JudgeRequest, Origin
from emodistill.negotiation.prompts import Named, take_apart
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Act, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.token_batches import Chats, collate_chats

Item = TypeVar("Item")
SLACK = 8  # tokens to spare for the seam of two texts and for the end of a turn
KEPT = 512  # encoded items that are kept at hand


class Encoded(Sequence[Item]):
    """Items that are encoded when they are asked for: a run reads a part of a large corpus, and encoding it takes long.

    Args:
        encode: makes an item; the same for the same place.
        places: of the items, in order.
    """

    def __init__(self, encode: Callable[[int], Item], places: Sequence[int]) -> None:
        self._encode, self._places = lru_cache(KEPT)(encode), list(places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> "Encoded[Item]": ...

    def __getitem__(self, index: int | slice) -> "Item | Encoded[Item]":
        if isinstance(index, slice):
            return Encoded(self._encode, self._places[index])
        return self._encode(self._places[index])


@dataclass(frozen=True)
class EncodedChat:
    """One episode in tokens.

    Attributes:
        input_ids: the chat up to its last chosen reply.
        utterance: for every token, which of the chosen replies it belongs to (0, 1, ...), or -1.
        turns: for every chosen reply, which focal turn of the episode it is (0-based).
        weights: for every chosen reply, how much it counts in the loss.
    """

    input_ids: list[int]
    utterance: list[int]
    turns: list[int]
    weights: list[float]


@dataclass(frozen=True)
class ChatContext:
    """A context in which the policy speaks next: all tokens before its reply, and what a judge has to know.

    Attributes:
        group: name of the scenario.
        words: what the counterparty said last, or an empty string; for people who read samples.
        emotion: that the reply is asked to show; None where the prompt asks for none.
        offer: the offer that the directive asks for, in the domain's unit, or None.
        names: the emotions of which the reply has to name one itself; None where it is words alone.
        act: what the reply does.
        origin: the episode that the context is from, for a judge that plays it on.
    """

    input_ids: list[int]
    scenario: Scenario
    history: tuple[Turn, ...]
    emotion: str | None
    group: str
    words: str
    offer: float | None = None
    names: Vocabulary | None = None
    act: Act = "propose"
    origin: Origin | None = None

    def taken(self, reply: str) -> Named:
        """The emotion that a reply is meant to show, asked for or named by itself, and its words."""
        return Named(self.emotion, reply) if self.names is None else take_apart(reply, self.names)

    def request(self, reply: str) -> JudgeRequest | None:
        """The question to a judge about a reply in this context.

        None for a reply that has to name its emotion and names none: whether it shows it cannot be asked, and to ask
        without an emotion would spare it what the others are scored on.
        """
        emotion, words = self.taken(reply)
        if self.names is not None and emotion is None:
            return None
        return JudgeRequest(self.scenario, self.history, emotion, words, origin=self.origin)


@dataclass(frozen=True)
class _Round:
    prompt: list[int]
    reply: list[int]


class ChatEncoder:
    """Writes episodes in tokens, within a limit.

    Args:
        offers_told: whether the directive names the offer to state, as in play where a schedule decides it. Where the
            model bargains the number itself it must not be told in training either.

    Attributes:
        dropped_rounds: early rounds left out so far because a chat was too long. What is encoded again counts once.
        dropped_turns: chosen turns lost with them.
        too_long: chats and contexts left out altogether, because one round alone was too long.
    """

    def __init__(self, chat_format: ChatFormat, max_tokens: int, offers_told: bool = True) -> None:
        self.chat_format, self.max_tokens, self.offers_told = chat_format, max_tokens, offers_told
        self._lost: dict[tuple[str, int | None], tuple[int, int, int]] = {}  # of a chat, or the context of a turn
        self._lengths: dict[tuple[str, str], int] = {}  # of openings and directives, in tokens

    def anew(self) -> "ChatEncoder":
        """The same encoder, which has left out nothing yet."""
        return ChatEncoder(self.chat_format, self.max_tokens, self.offers_told)

    @property
    def dropped_rounds(self) -> int:
        return sum(rounds for rounds, _, _ in self._lost.values())

    @property
    def dropped_turns(self) -> int:
        return sum(turns for _, turns, _ in self._lost.values())

    @property
    def too_long(self) -> int:
        return sum(whole for _, _, whole in self._lost.values())

    def fits(
        self,
        episode: Episode,
        turn: int,
        reserve: int | None = None,
        emotions: Sequence[str | None] | None = None,
    ) -> bool:
        """Whether a focal turn can be learnt from, or with a `reserve` for the reply be spoken anew.

        A text has at most as many tokens as bytes; it is encoded only where that bound does not settle it.

        Args:
            emotions: see `contexts`.
        """
        spoken, heard = episode.focal_turns[turn], _words_before(episode, turn) or ""
        opening = self._length(self.chat_format.opening, episode.scenario)
        told, asked = self._told(episode, spoken), emotions[turn] if emotions else spoken.emotion
        directive = self._length(self.chat_format.prompt, None, asked, spoken.act, told)
        reply = len(spoken.text.encode()) + SLACK if reserve is None else reserve
        if opening + directive + len(heard.encode()) + SLACK + reply <= self.max_tokens:
            return True
        words = self.chat_format.spoken(spoken.emotion, spoken.text) if reserve is None else [0] * reserve
        return opening + len(self._prompt(episode, turn, asked)) + len(words) <= self.max_tokens

    def _length(self, encode: Callable[..., list[int]], *given: Any) -> int:
        key = (encode.__name__, repr(given))
        if key not in self._lengths:
            self._lengths[key] = len(encode(*given))
        return self._lengths[key]

    def _told(self, episode: Episode, spoken: Turn) -> str | None:
        """The offer of a turn as the directive words it."""
        told = spoken.offer if self.offers_told else None
        return None if told is None else episode.scenario.rules.say(told)

    def encode(
        self, episode: Episode, selected: Sequence[bool], weights: Sequence[float] | None = None
    ) -> EncodedChat | None:
        """The chat of an episode, or None where nothing is chosen or the last chosen round alone is too long.

        Args:
            selected: for every focal turn, whether it is learnt from.
            weights: for every focal turn, how much it counts; by default 1.
        """
        chosen = _places(selected)
        if not chosen:
            return None
        rounds = self._rounds(episode, chosen[-1])
        opening = self.chat_format.opening(episode.scenario)
        first = _first_that_fits(rounds, self.max_tokens - len(opening))
        turns = [] if first is None else [i for i in chosen if i >= first]
        self._note(episode, None, first, 0 if first is None else len(chosen) - len(turns))
        if first is None:
            return None
        ids, owner = list(opening), [-1] * len(opening)
        kept = self._opened(episode, rounds, first, episode.focal_turns[first].emotion)
        for i, spoken in enumerate(kept, start=first):
            ids += spoken.prompt + spoken.reply
            label = turns.index(i) if i in turns else -1
            owner += [-1] * len(spoken.prompt) + [label] * len(spoken.reply)
        return EncodedChat(ids, owner, turns, [1.0 if weights is None else float(weights[i]) for i in turns])

    def contexts(
        self, episode: Episode, selected: Sequence[bool], reserve: int, emotions: Sequence[str | None] | None = None
    ) -> list[ChatContext]:
        """What comes before each chosen focal turn, one context a turn; one that is too long is left out.

        Args:
            selected: for every focal turn, whether it is spoken anew.
            reserve: tokens to leave free for the reply.
            emotions: for every focal turn, what its new words are asked to show; by default what it was asked to show.
                The turns before it stay as they were.
        """
        chosen = _places(selected)
        if not chosen:
            return []
        rounds = self._rounds(episode, chosen[-1])
        opening = self.chat_format.opening(episode.scenario)
        budget = self.max_tokens - len(opening) - reserve
        asked = emotions or [spoken.emotion for spoken in episode.focal_turns]
        found = (self._context(episode, turn, asked[turn], opening, rounds[:turn], budget) for turn in chosen)
        return [context for context in found if context is not None]

    def _context(
        self, episode: Episode, turn: int, emotion: str | None, opening: list[int], rounds: list[_Round], budget: int
    ) -> ChatContext | None:
        rounds = [*rounds, _Round(self._prompt(episode, turn, emotion), [])]
        first = _first_that_fits(rounds, budget)
        self._note(episode, turn, first)
        if first is None:
            return None
        spoken, place = episode.focal_turns[turn], _place(episode, turn)
        told = spoken.offer if self.offers_told else None
        kept = self._opened(episode, rounds, first, emotion if first == turn else episode.focal_turns[first].emotion)
        return ChatContext(
            opening + [token for r in kept for token in r.prompt + r.reply],
            episode.scenario,
            episode.turns[:place],
            emotion if self.chat_format.emotions == "prompted" else None,
            scenario_group(episode),
            _words_before(episode, turn) or "",
            told,
            self.chat_format.vocabulary if self.chat_format.emotions == "self_selected" else None,
            spoken.act,
            Origin(episode.counterparty, episode.seed, spoken.act, told),
        )

    def _rounds(self, episode: Episode, last: int) -> list[_Round]:
        """The rounds of the focal turns up to `last`, included."""
        return [
            _Round(self._prompt(episode, i, spoken.emotion), self.chat_format.spoken(spoken.emotion, spoken.text))
            for i, spoken in enumerate(episode.focal_turns[: last + 1])
        ]

    def _opened(self, episode: Episode, rounds: list[_Round], first: int, emotion: str | None) -> list[_Round]:
        """The rounds from `first` on; that one follows the opening, and was asked for the emotion."""
        if not self.chat_format.opens_message:
            return rounds[first:]
        return [_Round(self._prompt(episode, first, emotion, True), rounds[first].reply), *rounds[first + 1 :]]

    def _prompt(self, episode: Episode, turn: int, emotion: str | None, first: bool = False) -> list[int]:
        spoken = episode.focal_turns[turn]
        words, told = _words_before(episode, turn), self._told(episode, spoken)
        return self.chat_format.prompt(words, emotion, spoken.act, told, first)

    def _note(self, episode: Episode, turn: int | None, first: int | None, turns: int = 0) -> None:
        """Count what is left out of an episode's chat, or of the context of one turn.

        Args:
            turn: None for the whole chat.
            first: the first round that is kept; None where not even the last fits.
            turns: chosen turns that are lost.
        """
        if first != 0:  # what fits whole takes no memory
            self._lost[episode.episode_id, turn] = (first or 0, turns, int(first is None))


def _first_that_fits(rounds: Sequence[_Round], budget: int) -> int | None:
    """Index of the earliest round from which on all fit in so many tokens, or None if not even the last does."""
    first = len(rounds)
    while first > 0:
        budget -= len(rounds[first - 1].prompt) + len(rounds[first - 1].reply)
        if budget < 0:
            break
        first -= 1
    return None if first == len(rounds) else first


def _places(selected: Sequence[bool]) -> list[int]:
    return [i for i, wanted in enumerate(selected) if wanted]


def _place(episode: Episode, turn: int) -> int:
    """Position of a focal turn among all turns of the episode."""
    return [i for i, spoken in enumerate(episode.turns) if spoken.speaker == FOCAL][turn]


def _words_before(episode: Episode, turn: int) -> str | None:
    place = _place(episode, turn)
    before = episode.turns[place - 1] if place else None
    return before.text if before is not None and before.speaker == COUNTERPARTY else None


def scenario_group(episode: Episode) -> str:
    """Name of the group in which judge scores are compared: the turns of one scenario."""
    return f"{episode.scenario.domain}/{episode.scenario.id}"


def encode_chats(
    episodes: Sequence[Episode],
    selected: Sequence[Sequence[bool]],
    encoder: ChatEncoder,
    weights: Sequence[Sequence[float]] | None = None,
) -> Encoded[EncodedChat]:
    """The chats of all episodes in which something is chosen and fits; `weights` as in `ChatEncoder.encode`."""

    def encode(place: int) -> EncodedChat:
        chat = encoder.encode(episodes[place], selected[place], weights[place] if weights else None)
        assert chat is not None  # something is chosen, and it fits
        return chat

    last = [max(_places(chosen), default=None) for chosen in selected]
    return Encoded(encode, [k for k, turn in enumerate(last) if turn is not None and encoder.fits(episodes[k], turn)])


def contexts_by_episode(
    episodes: Sequence[Episode],
    selected: Sequence[Sequence[bool]],
    encoder: ChatEncoder,
    reserve: int,
    emotions: Sequence[Sequence[str | None]] | None = None,
) -> Encoded[list[ChatContext]]:
    """The contexts of all chosen turns that fit, of every episode that has one; see `ChatEncoder.contexts`.

    Args:
        emotions: by episode.
    """

    def encode(place: int) -> list[ChatContext]:
        return encoder.contexts(episodes[place], selected[place], reserve, emotions[place] if emotions else None)

    asked: Sequence[Sequence[str | None] | None] = emotions or [None] * len(episodes)
    fit = [
        any(encoder.fits(episode, turn, reserve, own) for turn in _places(chosen))
        for episode, chosen, own in zip(episodes, selected, asked, strict=True)
    ]
    return Encoded(encode, [place for place, yes in enumerate(fit) if yes])


def encode_contexts(
    episodes: Sequence[Episode],
    selected: Sequence[Sequence[bool]],
    encoder: ChatEncoder,
    reserve: int,
    emotions: Sequence[Sequence[str | None]] | None = None,
) -> list[ChatContext]:
    """The same in one list."""
    found = contexts_by_episode(episodes, selected, encoder, reserve, emotions)
    return [context for contexts in found for context in contexts]


def collate_encoded(chats: Sequence[EncodedChat], pad_id: int) -> Chats:
    """A batch of chats, padded on the right with `pad_id`."""
    return collate_chats([(chat.input_ids, chat.utterance) for chat in chats], pad_id)
