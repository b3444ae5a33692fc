"""OpenAI's chat-completions protocol: what a client may send, and what it gets.

Source: https://platform.openai.com/docs/api-reference/chat

What a negotiation needs beyond it stands in `metadata`, or for clients that cannot send that, in a system message with
lines of the form `key: value`. What a reply is beyond its words stands in the field `emodistill`.
"""

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from emodistill.checks import is_number
from emodistill.data.schema import QUESTIONS, SCALE
from emodistill.negotiator import LONGEST, Conversation, Message, Reply

KEYS = ("scenario", "domain", "target", "their_target", "seed")
DISCLOSURE = (
    "You are talking to a machine. It may choose which emotion to show in each turn, because that gets it a better "
    "deal; it feels none of them. It is research software and makes mistakes."
)
_PIECE = re.compile(r"\s*\S+")
_SHOWN = 80  # characters of a value in an error message


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        code: a word for programs.
        param: the field at fault.
        retry_after: seconds after which the same request may be answered.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.retry_after = retry_after

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        known = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return known.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class _Lenient(BaseModel):
    """Clients send many fields that mean nothing here; they are ignored."""

    model_config = ConfigDict(extra="ignore")


class TextPart(_Lenient):
    type: Literal["text"]
    text: str


class ChatMessage(_Lenient):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    emotion: str | None = None

    @property
    def words(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(_Lenient):
    include_usage: bool | None = False


class Talk(_Lenient):
    """A conversation as a client sends it, whole with every request."""

    model: str
    messages: list[ChatMessage]
    metadata: dict[str, str | int | float] | None = None

    @field_validator("metadata", mode="before")
    @classmethod
    def _known(cls, metadata: Any) -> Any:
        """The keys that mean something here; null is as good as none."""
        if not isinstance(metadata, Mapping):
            return metadata
        return {key: metadata[key] for key in KEYS if metadata.get(key) is not None}

    @cached_property
    def settings(self) -> dict[str, str]:
        """What `metadata` says, and what it leaves open as system messages say it, line by line.

        Where `metadata` says which negotiation it is, such lines are a prompt's, but for the seed.
        """
        given = {key: str(value) for key, value in (self.metadata or {}).items()}
        read = ("seed",) if given.keys() & {"scenario", "domain"} else KEYS
        said = {}
        for line in "\n".join(self.system).splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in read and value.strip():
                said[key.strip().lower()] = value.strip()
        return said | given

    @property
    def system(self) -> list[str]:
        return [message.words for message in self.messages if message.role in ("system", "developer")]

    @property
    def thread(self) -> list[Message]:
        """The words of both sides, without the system messages."""
        return [_spoken(message) for message in self.messages if message.role in ("user", "assistant")]


class ChatRequest(Talk):
    """The body of `POST /v1/chat/completions`."""

    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = None


Label = Annotated[str, Field(max_length=LONGEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class RecordRequest(Talk):
    """The body of `POST /api/record`: a conversation that is over, and what the person thinks of it."""

    consent: bool = False
    rating: dict[Label, Finite | Label] = Field(default_factory=dict, max_length=20)
    blind: bool = False

    @field_validator("rating")
    @classmethod
    def _on_the_scale(cls, rating: dict[str, float | str]) -> dict[str, float | str]:
        for question in QUESTIONS:  # those that `study=human` reads; others are free
            if question in rating and not is_number(rating[question], *SCALE):
                raise ValueError(f"{question} must be a number from {SCALE[0]} to {SCALE[1]}")
        return rating


Body = TypeVar("Body", bound=BaseModel)


def read(kind: type[Body], body: bytes) -> Body:
    """The request in a body.

    Raises:
        Refusal: naming the field at fault.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        if fault["type"] == "json_invalid":
            raise Refusal(400, "invalid_json", f"the body is no JSON: {fault['msg']}") from error
        given = "" if fault["type"] == "missing" else f", and not {_shown(fault['input'])}"
        fault_words = fault["msg"].removeprefix("Value error, ")
        raise Refusal(400, "invalid_field", f"{where or 'the body'}: {fault_words}{given}", where or None) from error


@dataclass(frozen=True)
class Answer:
    """One reply on its way to a client.

    Args:
        talk: with the reply in it.
        tokens: of the conversation before the reply, and of the reply.
    """

    model: str
    talk: Conversation
    reply: Reply
    tokens: tuple[int, int]

    def completion(self) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        message = {"role": "assistant", "content": self.reply.words, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage, "emodistill": self.extra}

    def stream(self, with_usage: bool) -> Iterator[str]:
        """The events of a reply that is streamed: its words in pieces, and in the last chunk what else it is."""
        head = self._head("chat.completion.chunk")
        usage: dict[str, Any] = {"usage": None} if with_usage else {}
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in _PIECE.findall(self.reply.words)]
        for delta in deltas:
            yield _event(head | usage | {"choices": [_choice(delta, None)]})
        yield _event(head | usage | {"choices": [_choice({}, "stop")], "emodistill": self.extra})
        if with_usage:
            yield _event(head | {"choices": [], "usage": self.usage, "emodistill": self.extra})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        about = {"object": kind, "created": int(time.time()), "model": self.model, "system_fingerprint": None}
        return {"id": f"chatcmpl-{secrets.token_hex(12)}", **about}

    @property
    def usage(self) -> dict[str, int]:
        prompt, completion = self.tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    @property
    def extra(self) -> dict[str, Any]:
        """The reply without its words, the emotions shown so far, and in the first reply who speaks."""
        heard = self.reply.heard
        shown = [message.get("emotion") for message in self.talk.messages if message["role"] == "assistant"]
        first = len(self.talk.messages) <= 2 and bool(self.reply.words)
        return {
            **{name: value for name, value in asdict(self.reply).items() if name != "words"},
            "heard": heard and {"act": heard.act, "offer": heard.offer},
            "emotions": shown,
            "disclosure": DISCLOSURE if first else None,
        }


def models(arms: Sequence[str], created: int) -> dict[str, Any]:
    """The body of `GET /v1/models`."""
    return {"object": "list", "data": [model(arm, created) for arm in arms]}


def model(arm: str, created: int) -> dict[str, Any]:
    return {"id": arm, "object": "model", "created": created, "owned_by": "emodistill"}


def _choice(delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _spoken(message: ChatMessage) -> Message:
    """
    Raises:
        Refusal: if the words are longer than any agent says; the other side's are checked when they are heard.
    """
    if message.role == "user":
        return {"role": "user", "content": message.words}
    if len(message.words) > LONGEST:
        wanted = f"the agent's own words, at most {LONGEST:,} characters"
        raise Refusal(400, "invalid_field", f"an assistant message must be {wanted}", "messages")
    return {"role": "assistant", "content": message.words, "emotion": message.emotion}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
