"""What the answer of a server of completions means: words, or why there are none and whether to ask again.

Servers and the gateways before them report failures by HTTP status, or inside status 200: in the body, in a choice, or
as the way in which a reply ended. All are read alike here. Whatever a server says is cleaned first: it may hold half of
an emoji, and may repeat the key.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard

from emodistill.language_models.completion import FailureKind, Tokens
from emodistill.language_models.thoughts import has_words, without_thoughts

RETRIED = frozenset({408, 409, 429})  # and every status from 500
LONGEST_QUOTE = 200
MOST_TOKENS = 10**9  # of one call; a server that counts more does not count

# How a reply ended, as servers call it.
CUT = re.compile(r"length|max_?(?:output_?|completion_?)?tokens|context_window", re.IGNORECASE)
STOPPED = re.compile(
    r"filter|safety|recitation|prohibited|blocklist|block|spii|sensitive|moderat|guardrail|refus|flag|polic",
    re.IGNORECASE,
)
BROKEN = re.compile(r"error|abort|insufficient_system_resource|overload|timeout|unavailable|cancel", re.IGNORECASE)

# What an error's code, type or status says in words, as an HTTP status; the first that fits counts.
CODES = (
    (402, re.compile(r"insufficient_(?:quota|balance|credits?|funds)|billing|payment", re.IGNORECASE)),
    (429, re.compile(r"rate_?limit|too_?many_?requests|resource_?exhausted|throttl", re.IGNORECASE)),
    (503, re.compile(r"overload|unavailable|insufficient_system_resource|capacity|busy", re.IGNORECASE)),
    (504, re.compile(r"time_?d?_?out|deadline", re.IGNORECASE)),
    (401, re.compile(r"authenticat|invalid_?api_?key|unauthori[sz]ed", re.IGNORECASE)),
    (403, re.compile(r"permission|forbidden", re.IGNORECASE)),
    (500, re.compile(r"server_?error|^internal(?:_error)?$|^api_error$|network_?error|bad_?gateway", re.IGNORECASE)),
)
_CODE_KEYS = ("code", "status", "status_code", "http_status", "http_code", "error_code", "type", "error_type")
_SAID_KEYS = (
    *("error", "errors", "message", "detail", "details", "msg"),
    *("error_msg", "errorMessage", "base_resp", "status_msg", "description"),
)

# What only the owner of the account can mend, and what passes by itself although it speaks of a quota.
QUOTA = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|exceeded[_ ](?:your[_ ])?current[_ ]quota"
    r"|billing[_ ](?:hard|not)|credit balance|out of credits?"
    r"|used (?:up )?all (?:of )?(?:your |its |the )?(?:available )?credits"
    r"|spending limit|account is (?:suspended|in arrears|overdue)|\barrearage\b|余额不足",
    re.IGNORECASE,
)
RATE = re.compile(
    r"per[ _-]?(?:second|minute|hour|day)|\b[rt]p[md]\b|rate[_ -]?limit|too many requests|resource_exhausted"
    r"|(?:try|retry) (?:again )?(?:later|soon|in|after)",
    re.IGNORECASE,
)
WRONG_KEY = re.compile(  # of a server that says so with status 400
    r"\bapi[ _]key[^.]{0,20}(?:not valid|invalid|incorrect|missing|expired|not found)"
    r"|(?:invalid|incorrect|missing) api[ _]key",
    re.IGNORECASE,
)
# A prompt that was refused for what it says; an account or a key may be flagged too, which is another thing.
FLAGGED = re.compile(
    r"\b(?:input|prompt|content|message|request|text|conversation)s?\b[^.]{0,40}"
    r"\b(?:flagged|blocked|filtered|inappropriate|violat\w+|unsafe|harmful|disallowed|rejected by)"
    r"|\bmoderat(?:ion|ed)\b|content[_ ](?:policy|filter)|usage polic|safety (?:system|filter|polic|setting)"
    r"|(?:flagged|blocked|violat\w+)\b[^.]{0,40}\b(?:content|prompt|input|polic|safety|guideline)"
    r"|(?:inappropriate|harmful|unsafe|sensitive) (?:content|prompt|input|text)|data_?inspection"
    r"|terms of (?:use|service)",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(r"\b(?:account|(?:api )?key|organi[sz]ation|project|ip|region|country)\b", re.IGNORECASE)

# A time to wait: in a field of its own, or in words such as "try again in 1m30s", "wait for a minute", "retry after 5".
WAIT_KEY = re.compile(r"(?:retry|reset)[-_ ]?(?:after|delay|in)|estimated[-_ ]?time", re.IGNORECASE)
_NUMBER = r"(?:\d+(?:\.\d+)?\s*|\b(?:an?|one)\s+(?=[a-z]{3}))"
_PART = rf"{_NUMBER}(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
WAIT = re.compile(
    r"\b(?:retry|try|again|wait|resets?|available (?:again )?(?:in|after))\b[^.\d\n]{0,40}?"
    rf"(?:({_PART}(?:(?:,?\s*and\s+|,?\s*)(?=\d){_PART})*)|(?:after|in|for):?\s(\d+(?:\.\d+)?)(?=\W*$|[.;,]\s))",
    re.IGNORECASE | re.MULTILINE,
)
_AMOUNT = re.compile(rf"({_NUMBER})(ms|milli|s|m|h|d)", re.IGNORECASE)
_UNIT_S = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOMENT = re.compile(
    r"\b(?:retry|try|again|wait|until|resets?|available)\b[^\d\n]{0,40}"
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)",
    re.IGNORECASE,
)
TOKEN_ID = re.compile(r"token_id:(\d{1,9})")  # how vLLM writes a token of which the id is wanted
DEEPEST = 100  # levels of an answer; no server means more


@dataclass(frozen=True)
class Outcome:
    """How one call ended.

    Attributes:
        text: what the model says, without thoughts; None where `kind` and `reason` say why there is nothing.
        cut: the reply ended at `max_tokens`.
        tokens: read and written, as the server counted them; None where it did not say.
        drawn: the answer token by token, where that was asked for.
        status: of a failure of the kind `status`: that of HTTP, or the one that an error inside status 200 names.
        charged: whether the call may have cost something.
        retry: whether the same call may end better.
        at_once: the same request may be put in another way now; that is not counted as a retry.
        by_user: that way is the words of the system said by the user, for this request alone.
        retry_after_s: what the server asked to wait.
        servers_fault: whether the failure says something of the server rather than of the request.
    """

    text: str | None = None
    cut: bool = False
    kind: FailureKind | None = None
    reason: str = ""
    tokens: tuple[int, int] | None = None
    drawn: Tokens | None = None
    status: int | None = None
    charged: bool = False
    retry: bool = False
    at_once: bool = False
    by_user: bool = False
    retry_after_s: float | None = None
    servers_fault: bool = False


def read_answer(
    status: int,
    content: bytes,
    asked_s: float | None = None,
    hide: Callable[[str], str] = lambda text: text,
    tokens: bool = False,
) -> Outcome:
    """The outcome of a call that was answered.

    Args:
        status: of HTTP.
        content: the body.
        asked_s: seconds that a header asks to wait.
        hide: takes secrets out of a text.
        tokens: whether a `TokenRequest` was asked, whose answer has tokens in place of a message.
    """
    try:
        answer = _cleaned(json.loads(content.decode(json.detect_encoding(content), "replace")), hide)
    except (ValueError, RecursionError):  # brackets without end are no JSON that anybody meant
        answer = None
    if not 200 <= status < 300:
        said = _cleaned(content.decode("utf-8", "replace"), hide) if answer is None else answer
        return read_refusal(status, said, asked_s)
    if answer is None and content.lstrip().startswith(b"data:"):
        return malformed("the reply is a stream, which nobody asked for; try 'endpoint.dialect.extra={stream: false}'")
    if answer is None:
        return malformed("the reply is no JSON")
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict):
        return malformed("the reply is no JSON object")
    return read_tokens(answer, asked_s) if tokens else read_reply(answer, asked_s)


def read_reply(answer: dict[str, Any], asked_s: float | None = None) -> Outcome:
    """The outcome of a call that ended with status 200."""
    tokens, choice = _tokens(answer.get("usage")), _choice(answer)
    message = _object(choice.get("message"))
    ending = str(choice.get("finish_reason") or "")
    if (broken := _broken(answer, choice, message, asked_s)) is not None:
        return broken
    if not message:
        return malformed("the reply has no message", tokens)
    text, cut = without_thoughts(_unrepeated(message, _words_in(message.get("content")))), bool(CUT.search(ending))
    if has_words(text):
        return Outcome(text=text, cut=cut, tokens=tokens, charged=True)
    if refusal := message.get("refusal") or _words_in(message.get("content"), "refusal"):
        return malformed(f"the model refuses: {shortened(str(refusal))}", tokens)
    if cut:
        return malformed("the reply was cut at max_tokens before it said anything; raise max_tokens", tokens)
    if message.get("tool_calls") or message.get("function_call"):
        return malformed("the reply calls a tool and has no text", tokens)
    return replace(malformed("the reply has no text but thoughts, or none at all", tokens), kind="wordless")


def read_tokens(answer: dict[str, Any], asked_s: float | None = None) -> Outcome:
    """The outcome of a `TokenRequest` that ended with status 200."""
    tokens, choice = _tokens(answer.get("usage")), _choice(answer)
    if (broken := _broken(answer, choice, choice, asked_s)) is not None:
        return broken
    if not isinstance(choice.get("text"), str):
        return malformed("the reply has no text", tokens)
    told = _object(choice.get("logprobs"))
    words, logprobs = _list(told.get("tokens")), _list(told.get("token_logprobs"))
    if len(words) != len(logprobs):
        return malformed(f"the reply has {len(words)} tokens and {len(logprobs)} log-probabilities", tokens)
    named = [TOKEN_ID.fullmatch(str(word)) for word in words]
    own = _list(choice.get("token_ids"))
    ids: tuple[int, ...] | None = None
    if words and all(named):
        ids = tuple(int(found[1]) for found in named if found)
    elif own and all(_is_count(one) for one in own) and len(logprobs) in (0, len(own)):
        ids = tuple(own)
    drawn = Tokens(
        model=str(answer.get("model") or ""),
        ids=ids,
        words=() if ids is not None else tuple(map(str, words)),
        logprobs=tuple(float(one) if _is_finite(one) else None for one in logprobs),
    )
    cut = bool(CUT.search(str(choice.get("finish_reason") or "")))
    return Outcome(text=choice["text"], cut=cut, tokens=tokens, drawn=drawn, charged=True)


def _choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    return _object(choices[0]) if isinstance(choices, list) and choices else {}


def _broken(
    answer: dict[str, Any], choice: dict[str, Any], said: dict[str, Any], asked_s: float | None
) -> Outcome | None:
    """The outcome where an answer with status 200 holds an error, or a filter stopped the reply; else None."""
    tokens, ending = _tokens(answer.get("usage")), str(choice.get("finish_reason") or "")
    error = next((place["error"] for place in (answer, choice, said) if place.get("error")), None)
    if error is None and not said and any(answer.get(key) for key in _SAID_KEYS):
        error = answer
    if error is None and BROKEN.search(ending):
        error = {"code": ending, "message": f"the reply ended with {ending}"}
    if error is not None:
        outcome = read_refusal(_status_of(error), error, asked_s, inside=True)
        return replace(outcome, tokens=tokens, charged=bool(choice))
    if STOPPED.search(ending):
        return malformed(f"the server's content filter stopped the reply ({ending})", tokens)
    return None


def _unrepeated(message: dict[str, Any], text: str) -> str:
    """The text without the thoughts that a message holds apart, should it begin with them once more."""
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    repeated = isinstance(thoughts, str) and has_words(thoughts) and text.strip().startswith(thoughts.strip())
    return text.strip().removeprefix(str(thoughts).strip()) if repeated else text


def malformed(reason: str, tokens: tuple[int, int] | None = None) -> Outcome:
    return Outcome(kind="malformed", reason=reason, tokens=tokens, charged=True)


def read_refusal(status: int | None, answer: Any, asked_s: float | None = None, inside: bool = False) -> Outcome:
    """The outcome of a call that was refused.

    Args:
        status: of HTTP, or what the error inside status 200 says; None where it says nothing.
        answer: the body as JSON, or as text where it is none.
        asked_s: seconds that a header asks to wait.
        inside: whether it came with status 200.
    """
    words, everything = words_of(answer), json.dumps(answer, ensure_ascii=False)
    about = f"status {status}" if not inside else "status 200 with an error" + (f" {status}" if status else "")
    if status == 403 and _is_flagged(answer, words):  # the words of a 401 or 403 like to quote the key: not kept
        return Outcome(kind="status", reason=f"{about}: the server's moderation refuses the prompt")
    retry = status is not None and (status in RETRIED or status >= 500)
    if retry and asked_s is None:
        asked_s = wait_in(answer)
    owed = QUOTA.search(everything) and not RATE.search(everything)
    if status == 402 or (owed and asked_s is None and status in (400, 403, 429)):
        quoted = f": {words}" if words and status != 403 else ": the account has nothing left"
        return Outcome(kind="quota", reason=about + quoted, servers_fault=True)
    if status in (401, 403) or (status == 400 and WRONG_KEY.search(everything)):
        return Outcome(kind="authentication", reason=f"{about}: the server refuses the key", servers_fault=True)
    fault = (retry and status not in (409, 429)) or status == 404
    reason = f"{about}: {words}" if words else about
    return Outcome(kind="status", reason=reason, status=status, retry=retry, retry_after_s=asked_s, servers_fault=fault)


def words_of(answer: Any) -> str:
    """The server's own words in an error, shortened to one line."""
    while isinstance(answer, dict | list):
        if isinstance(answer, list):
            answer = answer[0] if answer else ""
        else:
            said = (answer[key] for key in _SAID_KEYS if answer.get(key) and answer[key] is not True)
            answer = next(said, "" if "choices" in answer else str(answer))  # a reply is no error's words
    return shortened(str(answer))


def shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_QUOTE else line[:LONGEST_QUOTE] + "..."


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None where it says nothing readable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        return _until(header, parsedate_to_datetime, now)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _until(moment: str, read: Callable[[str], datetime], now: datetime | None) -> float | None:
    """Seconds until a moment, in UTC where it names no zone; None where it is none."""
    try:
        date = read(moment)
    except (ValueError, OverflowError):  # a year of twenty digits
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def wait_in(answer: Any, now: datetime | None = None) -> float | None:
    """Seconds that an error asks to wait, in a field of its own or in its words; None where it names no time."""
    leaves = [(key, str(value)) for key, value in _leaves(answer) if not isinstance(value, bool)]
    for key, text in leaves:
        if WAIT_KEY.search(key) and (seconds := _seconds(text)) is not None:
            return seconds / 1000.0 if key.lower().endswith("ms") else seconds
    for _, text in leaves:
        if found := WAIT.search(text):
            return _seconds(found[1] or found[2])
        if (found := _MOMENT.search(text)) and (seconds := _until(found[1], datetime.fromisoformat, now)) is not None:
            return seconds
    return None


def _seconds(text: str) -> float | None:
    """A length of time such as 39.5s, 1m30s or 2 minutes; a bare number is in seconds."""
    if re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", text):
        return float(text)
    parts = [(number, _UNIT_S[unit.lower()]) for number, unit in _AMOUNT.findall(text)]
    return sum(unit * (float(number) if number[0].isdigit() else 1.0) for number, unit in parts) if parts else None


def _is_flagged(answer: Any, words: str) -> bool:
    leaves = list(_leaves(answer))
    if any(value for key, value in leaves if key in ("reasons", "flagged", "flagged_input", "flagged_categories")):
        return True
    about = " ".join([words, *(str(value) for key, value in leaves if key in _CODE_KEYS)])
    return bool(FLAGGED.search(about)) and not _ACCOUNT.search(words)


def _status_of(error: Any) -> int | None:
    """The HTTP status that an error names, or that its code means; its own counts before what it quotes."""
    own = (
        {key: value for key, value in error.items() if not isinstance(value, dict | list)}
        if isinstance(error, dict)
        else {}
    )
    for place in (own, error):
        codes = [str(value) for key, value in _leaves(place) if key in _CODE_KEYS]
        numbers = [int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)]
        named = [status for status, words in CODES for code in codes if words.search(code)]
        if numbers or named:
            return (numbers + named)[0]
    return None


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in an answer that is no object and no list, with the key that it stands below."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each, key)
    else:
        yield key, value


def _words_in(content: Any, kind: str = "text") -> str:
    """The text of a message; of one in parts, the parts of this kind: others are thoughts, images, references."""
    if isinstance(content, str):
        return content if kind == "text" else ""
    words = ""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            words += part if kind == "text" else ""
        elif isinstance(part, dict) and part.get("type", "text") in (kind, f"output_{kind}"):
            words += part[kind] if isinstance(part.get(kind), str) else ""
    return words


def _tokens(usage: Any) -> tuple[int, int] | None:
    """What was read and written; some servers leave thoughts out of what was written, but not out of the total."""
    if not isinstance(usage, dict):
        return None
    read, written, whole = (usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if not (_is_count(read) and _is_count(written)):
        return None
    return read, max(written, whole - read) if _is_count(whole) else written


def _is_count(number: Any) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MOST_TOKENS


def _is_finite(number: Any) -> TypeGuard[float]:
    is_one = isinstance(number, int | float) and not isinstance(number, bool)
    return is_one and abs(number) <= sys.float_info.max  # a whole number may be too large for a float


def _list(value: Any) -> list[Any]:
    """A JSON list; an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    """A JSON object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def _cleaned(value: Any, hide: Callable[[str], str], deepest: int = DEEPEST) -> Any:
    """The answer without secrets and with U+FFFD for every half of a surrogate pair.

    Raises:
        RecursionError: if it is nested deeper than any answer.
    """
    if isinstance(value, str):
        return hide(value.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    if not isinstance(value, dict | list):
        return value
    if deepest == 0:
        raise RecursionError
    if isinstance(value, list):
        return [_cleaned(each, hide, deepest - 1) for each in value]
    return {_cleaned(key, hide, 0): _cleaned(each, hide, deepest - 1) for key, each in value.items()}
