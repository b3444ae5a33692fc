"""What a language model behind an endpoint is asked and answers: a reply or a failure, and no third case.

The seats that can take such a model (focal side, counterparty, judge) know this file only, not the client behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant"]
FailureKind = Literal[
    "timeout", "connection", "status", "authentication", "quota", "budget", "circuit", "malformed", "wordless"
]


@dataclass(frozen=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True)
class CompletionRequest:
    """One chat to continue.

    Attributes:
        max_tokens: most tokens of the reply.
        temperature: 0 is greedy.
        seed: asked of servers that know one; most promise nothing by it.
        schema: a JSON schema that the reply has to follow, where the server can enforce it; the caller checks anyway.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class TokenRequest:
    """Token ids to continue, and how likely every token is.

    Attributes:
        prompt: token ids; no template is put around them.
        max_tokens: most tokens of the reply.
        temperature: 0 is greedy. Log-probabilities are asked for at temperature 1, whatever this is.
        top_k: how many of the likeliest tokens are drawn from; None is all of them.
        stop_ids: tokens that end the reply, besides the server's own.
        echo: whether the prompt's tokens are wanted too, before those of the reply.
        model: the name that the answering adapter goes by; None is the endpoint's model.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None
    top_k: int | None = None
    stop_ids: tuple[int, ...] = ()
    echo: bool = False
    model: str | None = None


@dataclass(frozen=True)
class AdapterRequest:
    """An adapter that the server shall load, or forget; it costs nothing.

    Attributes:
        name: that requests ask for it by.
        folder: where the server finds it, in PEFT's format; None unloads it.
    """

    name: str
    folder: str | None = None


Request = CompletionRequest | TokenRequest | AdapterRequest


@dataclass(frozen=True)
class Usage:
    """What one request took.

    Attributes:
        prompt_tokens, completion_tokens: as the server counted them, over all attempts that it answered.
        cost: in the price list's currency; None for a model without a price.
        latency_s: from the first attempt to the end, waiting included.
        attempts: calls made; 0 where none was.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    latency_s: float = 0.0
    attempts: int = 0


def total(usages: Sequence[Usage]) -> Usage:
    """The sum; its cost is None as soon as tokens of unknown price are among it."""
    costs = [usage.cost if usage.prompt_tokens + usage.completion_tokens else usage.cost or 0.0 for usage in usages]
    return Usage(
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
        None if None in costs else sum(cost for cost in costs if cost is not None),
        sum(usage.latency_s for usage in usages),
        sum(usage.attempts for usage in usages),
    )


@dataclass(frozen=True)
class Tokens:
    """The answer to a `TokenRequest`, token by token.

    Attributes:
        model: the name that the server says it answered as.
        ids: None where the server tells words alone.
        words: each token as text; empty where it is told by its id, or not at all.
        logprobs: natural log, of the model's own distribution; None where the server says nothing of a token, as of the
            first one of a prompt. Empty where it says nothing at all.
    """

    model: str
    ids: tuple[int, ...] | None
    words: tuple[str, ...]
    logprobs: tuple[float | None, ...]


@dataclass(frozen=True)
class Reply:
    """A whole, well-formed answer.

    Attributes:
        text: words, without the thoughts of a model that thinks first.
        cut: it ended at `max_tokens` and not by itself.
        tokens: of a `TokenRequest`.
    """

    text: str
    usage: Usage
    cut: bool = False
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Failure:
    """No answer, and why.

    Attributes:
        reason: one sentence without any secret in it.
        status: of HTTP, where the kind is `status`.
    """

    kind: FailureKind
    reason: str
    usage: Usage
    status: int | None = None


class Completer(Protocol):
    """Something that continues chats, many at once."""

    @property
    def name(self) -> str:
        """Model and address, for reports and ledger keys; no secret in it."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Settings of the client that can change a reply, as far as they differ from the usual; no secret in them."""

    def complete(
        self,
        requests: Sequence[CompletionRequest],
        on_answer: Callable[[int, Reply | Failure], None] | None = None,
    ) -> list[Reply | Failure]:
        """One answer a request, in order. It never raises for what a server does.

        Args:
            on_answer: called with index and answer as soon as each is there, in the order of arrival, on the calling
                thread: what it stores is safe from whatever happens to the requests that are still under way.
        """
