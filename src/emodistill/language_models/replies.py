"""Reading what a chat-completions server sent: a reply whole and well formed, or the reason why it is none."""

import json
from dataclasses import dataclass
from typing import Any

from emodistill.language_models.completion import FailureKind
from emodistill.language_models.retries import retried

QUOTA_WORDS = ("insufficient_quota", "exceeded your current quota", "billing_hard_limit", "insufficient balance")
LONGEST_QUOTE = 200
MOST_TOKENS = 10**9  # of one call; a server that counts more does not count


@dataclass(frozen=True)
class Outcome:
    """How one call ended.

    Attributes:
        text: the reply, or None where `kind` and `reason` say why there is none.
        tokens: read and written, as the server counted them; None where it did not say.
        charged: whether the call may have cost something.
        retry: whether the same call may end better.
        at_once: the same request may be put in another way now; that is not counted as a retry.
        retry_after_s: what the server asked to wait.
        servers_fault: whether the failure says something of the server rather than of the request.
    """

    text: str | None = None
    cut: bool = False
    kind: FailureKind | None = None
    reason: str = ""
    tokens: tuple[int, int] | None = None
    charged: bool = False
    retry: bool = False
    at_once: bool = False
    retry_after_s: float | None = None
    servers_fault: bool = False


def read_reply(content: bytes) -> Outcome:
    """The outcome of a call that ended with status 200."""
    try:
        envelope = json.loads(content)
    except (ValueError, RecursionError):  # brackets without end are no JSON that anybody meant
        return malformed("the reply is no JSON")
    if not isinstance(envelope, dict):
        return malformed("the reply is no JSON object")
    tokens = _tokens(envelope.get("usage"))
    if envelope.get("error"):
        return Outcome(kind="status", reason=f"status 200 with an error: {words_of(content)}", tokens=tokens)
    try:
        choice = envelope["choices"][0]
        text, ending = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return malformed("the reply has no message", tokens)
    if not isinstance(text, str):
        return malformed("the message has no text", tokens)
    if ending == "content_filter":
        return malformed("the server's content filter stopped the reply", tokens)
    return Outcome(text=text, cut=ending == "length", tokens=tokens, charged=True)


def malformed(reason: str, tokens: tuple[int, int] | None = None) -> Outcome:
    return Outcome(kind="malformed", reason=reason, tokens=tokens, charged=True)


def read_refusal(status: int, content: bytes, retry_after: float | None) -> Outcome:
    """The outcome of a call that ended with another status than 200."""
    words = words_of(content)
    if status in (401, 403):  # the words of such an answer like to quote the key
        return Outcome(kind="authentication", reason=f"status {status}: the server refuses the key", servers_fault=True)
    if status == 402 or (status == 429 and any(word in content.decode("utf-8", "replace") for word in QUOTA_WORDS)):
        return Outcome(kind="quota", reason=f"status {status}: {words}", servers_fault=True)
    retry = retried(status)
    about = f"status {status}: {words}" if words else f"status {status}"
    fault = (retry and status not in (409, 429)) or status == 404
    return Outcome(kind="status", reason=about, retry=retry, retry_after_s=retry_after, servers_fault=fault)


def words_of(content: bytes) -> str:
    """The server's own words in an error, shortened to one line."""
    text = content.decode("utf-8", "replace")
    try:
        error: Any = json.loads(text)
    except (ValueError, RecursionError):
        error = text
    while isinstance(error, dict):
        error = next((error[key] for key in ("error", "message", "detail") if error.get(key)), str(error))
    line = " ".join(str(error).split())
    return line if len(line) <= LONGEST_QUOTE else line[:LONGEST_QUOTE] + "..."


def _tokens(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_TOKENS for count in counts):
        return counts  # type: ignore[return-value]  # checked just above
    return None
