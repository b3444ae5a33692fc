"""Where the words of one side come from: a model on this machine, or one behind an endpoint.

Both continue a `Dialogue`, one side's chat of one negotiation in words. It holds what was really said, so where an
offer was appended or a reply was cut, later rounds see the words as they stand in the negotiation, as in training.

A configuration names a backend by its spec. The spec opens it when somebody has to speak: a corpus that exists already
is read without a model in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from emodistill.emotions.vocabulary import DEFAULT, load_vocabulary
from emodistill.errors import UserError
from emodistill.language_models.completion import Completer, CompletionRequest, Failure, Message, Reply, Usage, total
from emodistill.negotiation.agents import Fault, NoRoom
from emodistill.negotiation.protocol import Negotiation, Side
from emodistill.policy.adapter_files import read_identity
from emodistill.policy.chat_format import ChatFormat
from emodistill.runs import weights_hash

if TYPE_CHECKING:  # and imported where a model on this machine is to speak
    from emodistill.policy.generation import ChatGenerator, Session

KEPT_BYTES = 2 * 2**30  # of attention caches of dialogues that are not in the current call
FATAL = {"authentication", "quota", "budget"}  # failures that the next request would meet as well


@dataclass(eq=False)
class Dialogue:
    """One side's chat of one negotiation.

    Attributes:
        system: the words of the system message.
        exchanges: of every past round what this side was told and what it said.
        asked: what it is told in the round under way.
    """

    negotiation: Negotiation
    side: Side
    system: str
    exchanges: list[tuple[str, str]] = field(default_factory=list)
    asked: str | None = None


class ChatBackend(Protocol):
    """Continues dialogues; `name` is what reports call it."""

    name: str

    @property
    def usage(self) -> Usage:
        """What its replies used so far; `cost` is None where a price is not known, and 0 where nobody charges."""

    @property
    def repeats(self) -> bool:
        """Whether the same prompt gives the same reply with every seed, so that another attempt is no use."""

    def reply(
        self, dialogues: Sequence[Dialogue], prompts: Sequence[str], seeds: Sequence[int]
    ) -> Sequence[str | Fault]:
        """The next words of each dialogue after a prompt, as the model gives them; the dialogues are not changed."""


class ChatBackendSpec(Protocol):
    """A chat backend by configuration.

    Attributes:
        is_local: whether it computes on this machine.
    """

    is_local: bool

    def recipe(self) -> dict[str, Any]:
        """What fixes the words, in plain values; part of a corpus's identity."""

    def describe(self) -> str:
        """The model in a few words, for people."""

    def open(self) -> ChatBackend: ...


@dataclass
class _EncodedDialogue:
    """A dialogue in tokens.

    Attributes:
        rounds: the exchanges encoded so far.
        dropped: how many early rounds the context has no room for.
    """

    dialogue: Dialogue  # kept, so that no other dialogue gets its id
    opening: list[int]
    session: "Session"
    rounds: list[list[int]] = field(default_factory=list)
    dropped: int = 0


class LocalChatBackend:
    """A model on this machine; the attention cache of every dialogue is kept between rounds.

    A chat that outgrows the context loses whole early rounds, as in training; its opening stays. Attention caches
    of dialogues that are not in the current call take at most `KEPT_BYTES`; the least recently used are dropped.

    Attributes:
        dropped_rounds: early rounds left out so far because a chat outgrew the context.
    """

    def __init__(
        self,
        generator: "ChatGenerator",
        chat: ChatFormat,
        name: str | None = None,
        thinker: "ChatGenerator | None" = None,
    ) -> None:
        """
        Args:
            generator: its `stop_ids` must hold the chat's end of turn.
            name: by default the model's.
            thinker: writes a thought before each reply, with the same model; `chat` has a form with thoughts then.

        Raises:
            ValueError: if the generator would not stop where the chat's turns end.
        """
        if chat.end_of_turn[0] not in generator.sampling.stop_ids:
            raise ValueError(
                "the generator does not stop at the chat's end of turn: give it stop_ids=chat.end_of_turn[:1]"
            )
        self.generator, self.chat, self.thinker = generator, chat, thinker
        self.name = name or generator.name.rstrip("/").rsplit("/", 1)[-1]
        self.dropped_rounds = 0
        self._encoded: dict[int, _EncodedDialogue] = {}  # by id of the dialogue

    @property
    def usage(self) -> Usage:
        """Tokens as the generator counts them: those that the cache still held were not read again."""
        both = [self.generator, self.thinker] if self.thinker else [self.generator]
        return Usage(sum(each.read for each in both), sum(each.written for each in both), 0.0)

    @property
    def repeats(self) -> bool:
        return self.generator.sampling.temperature == 0

    def reply(
        self, dialogues: Sequence[Dialogue], prompts: Sequence[str], seeds: Sequence[int]
    ) -> Sequence[str | Fault]:
        """
        Raises:
            NoRoom: where a prompt is too long for the model's context; naming those negotiations.
        """
        self._encoded = {key: e for key, e in self._encoded.items() if e.dialogue.negotiation.end is None}
        encoded = [self._encode(dialogue) for dialogue in dialogues]
        told = [self.chat.user(prompt, thought=True) for prompt in prompts]
        self._check_room(encoded, told)
        messages = [self._message(*each) for each in zip(encoded, prompts, told, strict=True)]
        sessions = [each.session for each in encoded]
        if self.thinker:
            messages = self._think(self.thinker, sessions, messages, seeds)
        replies = self.generator.extend_and_sample(sessions, messages, seeds)
        self._drop_least_recent(dialogues)
        return [self.chat.text(reply) for reply in replies]

    def _drop_least_recent(self, spoken: Sequence[Dialogue]) -> None:
        """Drop attention caches beyond `KEPT_BYTES`, the least recently used first; those of this call stay."""
        now = {id(dialogue): self._encoded[id(dialogue)] for dialogue in spoken}
        others = {key: each for key, each in self._encoded.items() if key not in now}
        kept = 0
        for each in reversed(others.values()):
            kept += each.session.held_bytes
            if kept > KEPT_BYTES:
                each.session.forget()
        self._encoded = others | now

    def _think(
        self,
        thinker: "ChatGenerator",
        sessions: "Sequence[Session]",
        messages: Sequence[Sequence[int]],
        seeds: Sequence[int],
    ) -> list[list[int]]:
        """Append messages and thoughts to sessions, which forget the thoughts with the next message.

        Returns:
            What is missing of the end of each thought: all of it where that was cut at its budget, or ended as a turn.
        """
        missing, end, mark = [], self.chat.end_of_thought, self.chat.thought_mark
        thoughts = thinker.extend_and_sample(sessions, messages, [seed ^ 1 for seed in seeds])
        for session, thought in zip(sessions, thoughts, strict=True):
            if thought[-1] in thinker.sampling.stop_ids and thought[-1] != mark:
                session.tokens.pop()
            missing.append(end[end.index(thought[-1]) + 1 :] if thought[-1] == mark else end)
        return missing

    def _encode(self, dialogue: Dialogue) -> _EncodedDialogue:
        if id(dialogue) not in self._encoded:
            from emodistill.policy.generation import Session

            self._encoded[id(dialogue)] = _EncodedDialogue(dialogue, self.chat.system(dialogue.system), Session())
        encoded = self._encoded[id(dialogue)]
        for prompt, said in dialogue.exchanges[len(encoded.rounds) :]:
            encoded.rounds.append(self.chat.user(prompt) + self.chat.reply(said))
        return encoded

    def _room(self, encoded: _EncodedDialogue, message: Sequence[int]) -> int:
        """Tokens that the context has for past rounds, beside a message and the reply to it."""
        budget = self.thinker.sampling.max_new_tokens + len(self.chat.end_of_thought) if self.thinker else 0
        upcoming = len(message) + budget + self.generator.sampling.max_new_tokens
        return self.generator.context - len(encoded.opening) - upcoming

    def _check_room(self, encoded: Sequence[_EncodedDialogue], told: Sequence[Sequence[int]]) -> None:
        full = [
            each.dialogue.negotiation
            for each, message in zip(encoded, told, strict=True)
            if self._room(each, message) < 0
        ]
        if full:
            raise NoRoom(
                f"model={self.generator.name}: a context of {self.generator.context} tokens is too short for the "
                "system message and the words of one round; say fewer, or choose a model with a longer one",
                full,
            )

    def _message(self, encoded: _EncodedDialogue, prompt: str, message: list[int]) -> list[int]:
        """A prompt, encoded as `message`, as it follows the chat so far, which is shortened to make room for it."""
        self._fit_to_context(encoded, self._room(encoded, message))
        alone = len(encoded.session.tokens) == len(encoded.opening)
        return self.chat.user(prompt, first=True, thought=True) if alone and self.chat.opens_message else message

    def _fit_to_context(self, encoded: _EncodedDialogue, room: int) -> None:
        """Set the session to the chat so far, without the early rounds that need more than `room` tokens."""
        first = 0
        while sum(map(len, encoded.rounds[first:])) > room:
            first += 1
        self.dropped_rounds += max(first - encoded.dropped, 0)
        encoded.dropped = max(first, encoded.dropped)
        kept = encoded.rounds[first:]
        if kept and self.chat.opens_message:
            prompt, said = encoded.dialogue.exchanges[first]
            kept[0] = self.chat.user(prompt, first=True) + self.chat.reply(said)
        encoded.session.tokens = [*encoded.opening, *(token for tokens in kept for token in tokens)]


class LocalModel:
    """A model on this machine by configuration; two sides with the same weights share them.

    Args:
        model: `embedded`, a folder, or a Hugging Face id.
        dtype: of the weights, see `dtype_of`; with an adapter not float16.
        adapter: folder of a trained adapter to merge in, on the base as it was trained (4 bits or not), or None.
        vocabulary: that the adapter was trained with.
        temperature, top_k, max_new_tokens, max_batch: see `ChatGenerator`.
        device: where it computes, see `device_of`.
        thought_tokens: most tokens of a thought before each reply, which nobody hears; None speaks without thinking.

    Raises:
        UserError: if dtype or device have no meaning here, or an adapter is to think, which none was trained to; from
            `recipe` and `open` if model or adapter are missing; from `open` if a model that is to think cannot.
    """

    is_local = True

    def __init__(
        self,
        model: str,
        dtype: str = "bfloat16",
        adapter: str | None = None,
        vocabulary: str = DEFAULT,
        temperature: float = 0.7,
        top_k: int | None = 40,
        max_new_tokens: int = 48,
        max_batch: int = 32,
        device: str = "auto",
        thought_tokens: int | None = None,
    ) -> None:
        if thought_tokens and adapter:
            raise UserError(f"thought_tokens={thought_tokens}: adapters are trained without thoughts; give null")
        self.thought_tokens = thought_tokens
        self.model, self.adapter, self.vocabulary = model, adapter, vocabulary
        from emodistill.language_models.local import device_of, dtype_of

        self.device = device_of(device)
        if adapter and dtype == "float16":
            raise UserError(f"speaker.dtype={dtype}: with an adapter, choose auto, float32 or bfloat16")
        self.dtype = dtype_of(dtype, self.device)
        self.temperature, self.top_k = temperature, top_k
        self.max_new_tokens, self.max_batch = max_new_tokens, max_batch

    @property
    def _dtype_name(self) -> str:
        """What is computed with, for a recipe: never `auto`."""
        return str(self.dtype).removeprefix("torch.")

    def recipe(self) -> dict[str, Any]:
        if self.adapter and not Path(self.adapter).is_dir():
            raise UserError(f"speaker.adapter={self.adapter}: there is no such folder; train it, or give null")
        if self.adapter:
            read_identity(Path(self.adapter))  # refuses a folder that holds none
        from emodistill.language_models.local import chat_fingerprint, fingerprint

        return {
            "model": fingerprint(self.model),
            "template": chat_fingerprint(self.model),
            "adapter": weights_hash(Path(self.adapter)) if self.adapter else None,
            "dtype": self._dtype_name,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "max_new_tokens": self.max_new_tokens,
        } | ({"thought_tokens": self.thought_tokens} if self.thought_tokens else {})

    def describe(self) -> str:
        return f"{self.model} with the adapter {self.adapter}" if self.adapter else self.model

    def open(self) -> ChatBackend:
        from emodistill.language_models.local import load_tokenizer
        from emodistill.policy.generation import ChatGenerator

        tokenizer = load_tokenizer(self.model)
        chat = ChatFormat(tokenizer, load_vocabulary(self.vocabulary), thinking=bool(self.thought_tokens))
        weights = self._weights()

        def generator(tokens: int, stop_ids: list[int]) -> "ChatGenerator":
            settings = (self.temperature, self.top_k, tokens, self.max_batch)
            return ChatGenerator(weights, tokenizer, *settings, stop_ids=stop_ids)

        thinker = None
        if self.thought_tokens and chat.thought_mark is not None:
            thinker = generator(self.thought_tokens, [*chat.end_of_turn, chat.thought_mark])
        speaker = generator(self.max_new_tokens, chat.end_of_turn)
        return LocalChatBackend(speaker, chat, Path(self.model).name, thinker)

    def _weights(self) -> Any:
        from emodistill.language_models.local import shared_model

        if not self.adapter:
            return shared_model(self.model, self.dtype, self.device)
        read_identity(Path(self.adapter))
        merged = f"{weights_hash(Path(self.adapter))}, {self.vocabulary}"  # a path may hold another one by now
        return shared_model(self.model, self.dtype, self.device, merged, self._merged)

    def _merged(self) -> Any:
        from emodistill.policy.expression_policy import ExpressionPolicy

        assert self.adapter is not None  # or else nothing would be merged
        four_bit = read_identity(Path(self.adapter)).get("four_bit", True)  # of an older adapter, as it used to be
        settings = (four_bit, self._dtype_name, self.vocabulary)
        policy = ExpressionPolicy(self.model, {}, *settings, init_adapter=self.adapter)
        return policy.merged(self.dtype, self.device)


class EndpointChatBackend:
    """A model behind a `Completer`; all dialogues of a call are asked for at once.

    A request that fails is a fault of its negotiation alone. A failure that every further request would meet (no
    credentials, no quota, no budget) stops the run instead: a corpus of failures would be useless.

    Args:
        max_tokens: longest reply.
        temperature: of sampling; 0 is greedy.
        name: what reports call it; the completer's own name by default.
    """

    def __init__(
        self, completer: Completer, max_tokens: int = 96, temperature: float = 0.7, name: str | None = None
    ) -> None:
        self.completer, self.max_tokens, self.temperature = completer, max_tokens, temperature
        self.name = name or completer.name
        self.usage = Usage(cost=0.0)

    @property
    def repeats(self) -> bool:
        return self.temperature == 0

    def reply(
        self, dialogues: Sequence[Dialogue], prompts: Sequence[str], seeds: Sequence[int]
    ) -> Sequence[str | Fault]:
        """
        Raises:
            UserError: where the server refuses for good; what has been played is not lost.
        """
        requests = [
            CompletionRequest(_messages(dialogue, prompt), self.max_tokens, self.temperature, seed % 2**31)
            for dialogue, prompt, seed in zip(dialogues, prompts, seeds, strict=True)
        ]
        answers = self.completer.complete(requests)
        self.usage = total([self.usage, *(answer.usage for answer in answers)])
        for answer in answers:
            if isinstance(answer, Failure) and answer.kind in FATAL:
                raise UserError(f"{self.name}: {answer.reason}; mend it and run the same command again to continue")
        return [self._said(answer) for answer in answers]

    def _said(self, answer: Reply | Failure) -> str | Fault:
        """Words or a fault. A reply without words is none yet: whoever asked may ask again with another seed."""
        if isinstance(answer, Reply):
            return answer.text
        return "" if answer.kind == "wordless" else Fault(f"{self.name}: {answer.kind}: {answer.reason}")


def _messages(dialogue: Dialogue, prompt: str) -> tuple[Message, ...]:
    messages = [Message("system", dialogue.system)]
    for asked, said in dialogue.exchanges:
        messages += [Message("user", asked), Message("assistant", said)]
    return (*messages, Message("user", prompt))


class EndpointModel:
    """A model behind an endpoint by configuration.

    Args:
        completer: the client.
        name: of the model, without its address: what reports and a corpus's recipe call it.
        max_tokens: longest reply.
        temperature: of sampling.
    """

    is_local = False

    def __init__(
        self, completer: Completer, name: str | None = None, max_tokens: int = 96, temperature: float = 0.7
    ) -> None:
        self.completer, self.name = completer, name or completer.name
        self.max_tokens, self.temperature = max_tokens, temperature

    def recipe(self) -> dict[str, Any]:
        dialect = {"dialect": self.completer.recipe} if self.completer.recipe else {}
        return {"endpoint": self.name, "max_tokens": self.max_tokens, "temperature": self.temperature} | dialect

    def describe(self) -> str:
        return f"{self.name} behind an endpoint"

    def open(self) -> ChatBackend:
        return EndpointChatBackend(self.completer, self.max_tokens, self.temperature, self.name)
