"""What servers answer, from a server on loopback: words, or a failure with its reason, and which are asked again."""

import json
from datetime import UTC, datetime

import pytest
from endpoints import QUICK, ask, endpoint
from faulty_server import FaultyServer
from hypothesis import given
from hypothesis import strategies as st

from emodistill.language_models.answers import LONGEST_QUOTE, read_answer, wait_in, words_of
from emodistill.language_models.client import RetryPolicy
from emodistill.language_models.completion import Reply

SAID = "I can do 45 days if we both sign today."
THOUGHT = "Okay. My limit is 110 days, but I could go down to 20."
USAGE = {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70}


def chat(content, finish="stop", choice=(), usage=USAGE, **message):
    """A whole answer with status 200."""
    said = {"role": "assistant", "content": content, **message}
    choices = [{"index": 0, "finish_reason": finish, "message": said, **dict(choice)}]
    return 200, {"object": "chat.completion", "choices": choices, "usage": usage}, {}


def error(code=None, message="it went wrong", status=200, headers=(), **more):
    """An error object as the body."""
    code = {} if code is None else {"code": code}
    return status, {"error": {"message": message, **code, **more}}, dict(headers)


def failing(finish, **broke):
    """A reply that broke off in the middle."""
    return chat(SAID[:17], finish, choice={"error": broke} if broke else {})


@pytest.fixture(scope="module")
def server():
    with FaultyServer(lambda body: "a second answer") as running:
        yield running


def answered(server, *script, **settings):
    """What one request came to, and how many calls it took."""
    server.script, before = list(script), server.calls
    with endpoint(server, retries=RetryPolicy(max_retries=0), **settings) as client:
        (answer,) = client.complete([ask()])
    return answer, server.calls - before


WORDS = {
    "plain": chat(SAID),
    "thoughts before": chat(f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"),
    "thoughts off": chat(f"<think>\n\n</think>\n\n{SAID}"),
    "thoughts in the middle": chat(f"{SAID[:17]}<think>{THOUGHT}</think>{SAID[17:]}"),
    "thoughts behind": chat(f"{SAID}\n<think>{THOUGHT}</think>"),
    "thoughts behind, cut": chat(f"{SAID}\n<think>{THOUGHT}", "length"),
    "thoughts that began in the prompt": chat(f"{THOUGHT}\n</think>\n\n{SAID}"),
    "thoughts apart": chat(SAID, reasoning_content=THOUGHT),
    "thoughts apart by another name": chat(SAID, reasoning=THOUGHT, reasoning_details=[{"text": THOUGHT}]),
    "thoughts as a part": chat([{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": SAID}]),
    "thoughts as parts of a part": chat(
        [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, {"type": "text", "text": SAID}]
    ),
    "reasoning as a part": chat([{"type": "reasoning", "text": THOUGHT}, {"type": "text", "text": SAID}]),
    "thoughts apart and once more": chat(f"{THOUGHT}\n\n{SAID}", reasoning_content=THOUGHT),
    "thoughts apart that are no text": chat(SAID, reasoning={"effort": "low"}, reasoning_content=""),
    "parts": chat([{"type": "text", "text": SAID[:20]}, {"type": "text", "text": SAID[20:]}]),
    "one part, no list": chat({"type": "text", "text": SAID}),
    "parts of another name": chat([{"type": "output_text", "text": SAID, "annotations": []}]),
    "parts that are strings": chat([SAID]),
    "parts with thoughts in them": chat([{"type": "text", "text": f"<think>{THOUGHT}</think>{SAID}"}]),
    "channels": chat(
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{SAID}"
    ),
    "the end of the turn": chat(f"{SAID}<|im_end|>"),
    "another turn": chat(f"{SAID}<|im_end|>\n<|im_start|>user\nNo."),
    "no ending": chat(SAID, None),
    "an ending of another name": chat(SAID, "STOP"),
    "an empty error": (200, {**chat(SAID)[1], "error": None}, {}),
    "no refusal": chat(SAID, refusal=None, tool_calls=None),
    "status 201": (201, chat(SAID)[1], {}),
    "a list of one": (200, [chat(SAID)[1]], {}),
    "blank lines before": (200, b"\n\n\n" + json.dumps(chat(SAID)[1]).encode(), {}),
    "a byte-order mark": (200, b"\xef\xbb\xbf" + json.dumps(chat(SAID)[1]).encode(), {}),
}


@pytest.mark.parametrize("sent", WORDS.values(), ids=WORDS)
def test_words_are_found_without_the_thoughts(server, sent):
    answer, calls = answered(server, sent)
    assert isinstance(answer, Reply) and answer.text == SAID and calls == 1


@pytest.mark.parametrize(
    "ending", ["length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded"]
)
def test_a_cut_is_known_by_any_name(server, ending):
    answer, _ = answered(server, chat(SAID, ending))
    assert answer.cut and answer.text == SAID
    answer, _ = answered(server, chat(f"<think>{THOUGHT}", ending))
    assert answer.kind == "malformed" and "raise max_tokens" in answer.reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("45 days. \ud83d", "45 days. \ufffd"),
        ("45 \ude00 days", "45 \ufffd days"),
        ("45 days \ud83d\ude00", "45 days \U0001f600"),
        ([{"type": "text", "text": "45 days \ud83d"}], "45 days \ufffd"),
        (b"45 days \xf0\x9f", "45 days \ufffd"),
    ],
)
def test_half_an_emoji_becomes_a_replacement_character(server, content, said):
    raw = isinstance(content, bytes)
    sent = json.dumps(chat("PLACE" if raw else content, "length")[1]).encode()
    answer, _ = answered(server, (200, sent.replace(b"PLACE", content) if raw else sent, {}))
    assert answer.text == said and answer.text.encode()


EMPTY = {
    "cut in a thought": (chat(f"<think>\n{THOUGHT}", "length"), "malformed", "raise max_tokens"),
    "cut in a thought that is kept apart": (chat(None, "length", reasoning_content=THOUGHT), "malformed", "max_tokens"),
    "cut before anything": (chat("", "length"), "malformed", "max_tokens"),
    "cut in the mark of a thought": (chat("<thi", "length"), "malformed", "max_tokens"),
    "cut in a thought of parts": (
        chat([{"type": "thinking", "thinking": THOUGHT}], "length"),
        "malformed",
        "max_tokens",
    ),
    "cut in the channel of thoughts": (
        chat(f"<|channel|>analysis<|message|>{THOUGHT}", "length"),
        "malformed",
        "raise",
    ),
    "a refusal": (chat(None, refusal="I can't take part in that."), "malformed", "refuses: I can't take part"),
    "a refusal as a part": (
        chat([{"type": "refusal", "refusal": "No, I won't."}]),
        "malformed",
        "refuses: No, I won't",
    ),
    "a call of a tool": (chat(None, "tool_calls", tool_calls=[{"id": "1"}]), "malformed", "tool"),
    "nothing": (chat(""), "wordless", "no text"),
    "no text": (chat(None), "wordless", "no text"),
    "blanks": (chat(" \n\u200b"), "wordless", "no text"),
    "dots": (chat("..."), "wordless", "no text"),
    "a thought alone": (chat(f"<think>{THOUGHT}</think>"), "wordless", "thoughts"),
    "a thought alone, kept apart": (chat(None, reasoning_content=THOUGHT), "wordless", "thoughts"),
    "a thought alone, apart and once more": (chat(THOUGHT, reasoning_content=THOUGHT), "wordless", "thoughts"),
    "a thought that never ends": (chat(f"<think>{THOUGHT} {SAID}"), "wordless", "thoughts"),
    "an image": (chat([{"type": "image_url", "image_url": {"url": "x"}}]), "wordless", "no text"),
    "a number": (chat(7), "wordless", "no text"),
    "stopped without a message": (
        (200, {"choices": [{"index": 0, "finish_reason": "SAFETY"}], "usage": USAGE}, {}),
        "malformed",
        "filter stopped",
    ),
    "no choice": ((200, {"choices": [], "usage": USAGE}, {}), "malformed", "message"),
    "null for choices": ((200, {"choices": None, "usage": USAGE}, {}), "malformed", "message"),
    "no message": ((200, {"choices": [{"message": None}], "usage": USAGE}, {}), "malformed", "message"),
}
for name in ("SAFETY", "content_filter", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "sensitive"):
    EMPTY[f"stopped by {name}"] = (chat("", name), "malformed", f"filter stopped the reply ({name})")
    EMPTY[f"stopped by {name} in the middle"] = (chat(SAID, name), "malformed", "filter")
for name in ("IMAGE_SAFETY", "refusal", "guardrail_intervened", "moderation"):
    EMPTY[f"stopped by {name}"] = (chat(SAID, name), "malformed", "filter")


@pytest.mark.parametrize(("sent", "kind", "word"), EMPTY.values(), ids=EMPTY)
def test_what_is_no_word_is_a_failure_that_was_paid_for(server, sent, kind, word):
    answer, calls = answered(server, sent)
    assert (answer.kind, calls) == (kind, 1) and word in answer.reason and THOUGHT not in answer.reason
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (50, 20)


BUSY = "upstream is busy"
PASSING = {
    "a body with a code": error(429, BUSY),
    "a body with a code as text": error("503", BUSY),
    "a body with a status": error(None, BUSY, type="overloaded_error"),
    "a body of Anthropic's": (200, {"type": "error", "error": {"type": "overloaded_error", "message": BUSY}}, {}),
    "a body of OpenAI's": error("rate_limit_exceeded", BUSY, type="tokens"),
    "a body of OpenAI's without a code": error(None, BUSY, type="server_error"),
    "a body of Google's": (200, [{"error": {"code": 503, "status": "UNAVAILABLE", "message": BUSY}}], {}),
    "a body of Google's, by name": error("RESOURCE_EXHAUSTED", BUSY),
    "a flat body": (200, {"object": "error", "message": BUSY, "code": 500}, {}),
    "a flat body with a name": (200, {"code": "too_many_requests", "msg": BUSY}, {}),
    "a body beside choices": (200, {**chat(SAID)[1], "error": {"code": 502, "message": BUSY}}, {}),
    "a body with choices of null": (200, {"choices": None, "error": {"code": 504, "message": BUSY}}, {}),
    "a choice": failing("error", code=502, message=BUSY),
    "a choice by name": failing("error", code="server_error", message=BUSY),
    "a choice that says it stopped": failing("stop", code=502, message=BUSY),
    "a message": chat("", "error", error={"code": 503, "message": BUSY}),
    "an ending for want of resources": failing("insufficient_system_resource"),
    "an ending for the network": failing("network_error"),
    "a time-out": error("timeout", BUSY),
    "status 529": error(None, "Overloaded", status=529, type="overloaded_error"),
    "status 520 of a gateway": (520, b"<html>unknown error</html>", {}),
    "status 503 without words": (503, b"", {}),
    "Google's quota of a minute": error(
        429,
        "You exceeded your current quota, please check your plan. Quota exceeded for metric: requests per minute, "
        "limit: 10. Please retry in 0.01s.",
        status=429,
    ),
    "Google's quota with its delay in a field": error(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        status=429,
        details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.01s"}],
    ),
    "a quota that a header limits in time": error(
        429, "You exceeded your current quota", status=429, headers={"retry-after": "0.01"}
    ),
    "a quota of tokens a minute": error(429, "Quota exceeded: insufficient_quota for tokens per minute", status=429),
    "a gateway's words around it": error(
        429, "Provider returned error", status=429, metadata={"raw": "exceeded your current quota, retry in 0.01s"}
    ),
}


@pytest.mark.parametrize("sent", PASSING.values(), ids=PASSING)
def test_what_passes_by_itself_is_asked_again(server, sent):
    server.script, before = [sent], server.calls
    with endpoint(server, retries=QUICK) as client:
        (answer,) = client.complete([ask()])
    assert isinstance(answer, Reply) and answer.text == "a second answer" and server.calls - before == 2


LASTING = {
    "a body without a code": (error(None, BUSY), "status", BUSY),
    "a body of text": ((200, {"error": "model not found"}, {}), "status", "model not found"),
    "a body with a code that lasts": (error(400, "too long"), "status", "too long"),
    "a body with a code of the reader's": (error(404, "no such model"), "status", "no such model"),
    "a detail": ((200, {"detail": "Not Found"}, {}), "status", "Not Found"),
    "details": ((422, {"detail": [{"loc": ["seed"], "msg": "no integer"}]}, {}), "status", "no integer"),
    "a choice without a code": (failing("error", message=BUSY), "status", BUSY),
    "an ending alone": (failing("error"), "status", "ended with error"),
    "an abort": (failing("abort"), "status", "ended with abort"),
    "a key inside status 200": (error(401, "bad key sk-12"), "authentication", "refuses the key"),
    "a key by name": (error("invalid_api_key", "bad key sk-12"), "authentication", "refuses the key"),
    "OpenAI's quota": (
        error(
            "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details.",
            status=429,
            type="insufficient_quota",
        ),
        "quota",
        "exceeded your current quota",
    ),
    "OpenAI's quota inside status 200": (error("insufficient_quota", "exceeded"), "quota", "exceeded"),
    "Anthropic's": (error(None, "Your credit balance is too low to access the API.", status=400), "quota", "credit"),
    "DeepSeek's": (error(None, "Insufficient Balance", status=402), "quota", "Insufficient Balance"),
    "a gateway's": (error(402, "Insufficient credits"), "quota", "credits"),
    "another's": (
        error(None, "The account is suspended", status=429, type="exceeded_current_quota_error"),
        "quota",
        "suspended",
    ),
    "credits that are used up": (
        error(None, "Your team has used all available credits, key xai-12", status=403),
        "quota",
        "nothing left",
    ),
    "a wait that is too long": (
        error(429, "exceeded your current quota. Please retry in 5h.", status=429),
        "status",
        "asks to wait 18000 s",
    ),
    "a wrong key of Google's": (
        error(400, "API key not valid: sk-12. Please pass a valid API key.", status=400, reason="API_KEY_INVALID"),
        "authentication",
        "refuses the key",
    ),
    "a stream": ((200, b'data: {"choices": []}\n\ndata: [DONE]\n\n', {}), "malformed", "stream"),
    "a page": ((200, b"<html>Log in</html>", {}), "malformed", "no JSON"),
    "a wrong key": (error(None, "Incorrect API key sk-12", status=401), "authentication", "status 401"),
    "no right": (error(None, "Your project does not have access", status=403), "authentication", "status 403"),
    "a flagged account": (error(403, "Your account was flagged for abuse", status=403), "authentication", "403"),
    "a flagged prompt": (
        error(403, "the input was flagged", status=403, metadata={"reasons": ["harassment"]}),
        "status",
        "moderation refuses the prompt",
    ),
    "a flagged prompt inside status 200": (error(403, "Your prompt was flagged."), "status", "moderation"),
    "a flagged prompt with what was flagged": (
        error(403, "no", status=403, metadata={"flagged_input": "my account"}),
        "status",
        "moderation",
    ),
    "a policy": (error(None, "Request blocked by our content policy", status=403), "status", "moderation"),
    "a filter of a cloud": (error("content_filter", "The response was filtered", status=400), "status", "filtered"),
    "a policy by its code": (error("content_policy_violation", "no", status=403), "status", "moderation"),
    "a flag": (error(None, "no", status=403, metadata={"flagged": True}), "status", "moderation"),
    "harm": (error(None, "Harmful content was detected", status=403), "status", "moderation"),
    "terms": (error(None, "The prompt violates the Terms of Service", status=403), "status", "moderation"),
    "a country": (error(None, "Your country is blocked by our content policy", status=403), "authentication", "key"),
    "an inspection": (error("DataInspectionFailed", "Input data may be bad", status=400), "status", "bad"),
}


@pytest.mark.parametrize(("sent", "kind", "word"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_not_asked_again(server, sent, kind, word):
    server.script, before = [sent], server.calls
    with endpoint(server, retries=QUICK) as client:
        (answer,) = client.complete([ask()])
    server.script = []
    assert (answer.kind, server.calls - before) == (kind, 1) and word in answer.reason
    assert not any(secret in answer.reason for secret in ("sk-", "xai-", "harassment"))


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        *(("Please retry in 3s.", 3), ("Please try again in 1m30s. Visit our page.", 90), ("try again in 20ms", 0.02)),
        *(("Please try again in 6m0s.", 360), ("in 1h2m3.5s", None), ("Try again in 1h2m3.5s", 3723.5)),
        *(("Please wait 20 seconds before you retry", 20), ("retry after 5", 5), ("Retry after: 7.5", 7.5)),
        *(("wait for 1 minute and 30 seconds", 90), ("Please wait a minute.", 60), ("come again in an hour", 3600)),
        *(("Your quota resets in 2 hours, 5 minutes", 7500), ("try again in about 2 min.", 120), ("retry", None)),
        *(("Rate limit: 10 per 1 minute. Please try again later.", None), ("try again in a few seconds", None)),
        *(("wait as long as you like", None), ("Limit 500, used 498. Try again in 2.5 s", 2.5), ("", None)),
        *(
            ("Please retry after 6 seconds. Please go here: https://x to ask for a quota increase", 6),
            ("tokens per day (TPD): Limit 1000, Used 990, Requested 20. Please try again in 14m24s. Need more?", 864),
            ("reached organization max RPM: 3, please try again after 1 seconds", 1),
            ("Slow down for 5 s", None),
            ("resets at 2026-01-01T12:00:30Z", 30),
            ("again after 2026-01-01 12:01", 60),
            ("until 2026-99-99T12:00", None),
        ),
        *(("retry at 2026-01-01T14:00:10+02:00", 10), ("Waiting list of 30 days", None), ("retry 3 of 5", None)),
    ],
)
def test_a_time_to_wait_is_read_from_words(words, seconds):
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    for answer in (words, {"error": {"message": words, "code": 429}}, [{"error": {"message": words}}]):
        assert wait_in(answer, now) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        *(
            ({"retry_after": 5}, 5),
            ({"retryAfter": "5"}, 5),
            ({"retry_after_ms": 1500}, 1.5),
            ({"retry-after": "2s"}, 2),
        ),
        *(({"retryDelay": "39.5s"}, 39.5), ({"estimated_time": 20.0}, 20), ({"retry_after_seconds": 4}, 4)),
        *(({"details": [{"retryDelay": "1m5s"}]}, 65), ({"retry_after": None}, None), ({"retry_after": True}, None)),
        ({"metadata": {"headers": {"Retry-After": "9"}}}, 9),
    ],
)
def test_a_time_to_wait_is_read_from_a_field(fields, seconds):
    assert wait_in({"error": {"message": "busy", **fields}}) == seconds


@pytest.mark.parametrize("status", [429, 503, 200])
def test_the_time_that_the_words_name_is_waited_for(server, status):
    server.script, before = [error(429, "Please try again in 400ms.", status=status)], server.calls
    with endpoint(server, retries=QUICK) as client:
        assert isinstance(client.complete([ask()])[0], Reply)
    assert server.log[before + 1].at - server.log[before].at >= 0.4


def test_a_header_in_thousandths_is_waited_for(server):
    server.script, before = [(429, b"", {"retry-after-ms": "400", "retry-after": "9"})], server.calls
    with endpoint(server, retries=QUICK) as client:
        assert isinstance(client.complete([ask()])[0], Reply)
    assert 0.4 <= server.log[before + 1].at - server.log[before].at < 9.0


def test_a_flagged_prompt_says_nothing_of_the_server(server):
    """The circuit stays closed, however many prompts are flagged."""
    server.script = [error(403, "the input was flagged", status=403)] * 20 + [chat("", "SAFETY")] * 20
    with endpoint(server) as client:
        answers = client.complete([ask(f"{i}") for i in range(41)])
    assert sum(isinstance(answer, Reply) for answer in answers) == 1
    assert {getattr(answer, "kind", None) for answer in answers} == {"status", "malformed", None}


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (USAGE, (50, 20)),
        ({**USAGE, "total_tokens": 170}, (50, 120)),  # thoughts are counted in the total alone
        ({**USAGE, "total_tokens": 10}, (50, 20)),
        ({**USAGE, "total_tokens": "70"}, (50, 20)),
        ({**USAGE, "total_tokens": None}, (50, 20)),
    ],
)
def test_thoughts_that_only_the_total_has_are_on_the_bill(server, usage, tokens):
    answer, _ = answered(server, chat(SAID, usage=usage))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == tokens


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 3}, {"prompt_tokens": "3", "completion_tokens": 1}])
@pytest.mark.parametrize("bad", [-1, True, 1.5, 10**400])
def test_a_bill_that_cannot_be_read_is_none(usage, bad):
    status, body, _ = chat("yes")
    assert read_answer(status, json.dumps(body | {"usage": usage}).encode()).tokens is None
    counts = {"prompt_tokens": 3, "completion_tokens": bad}
    outcome = read_answer(status, json.dumps(body | {"usage": counts}).encode())
    assert outcome.text == "yes" and outcome.tokens is None and outcome.charged


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "code", "message", "choices", "content", "finish_reason", "usage", "type"]),
            below,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200), st.sampled_from([200, 403, 429, 500]))
def test_any_bytes_are_an_outcome(content, status):
    outcome = read_answer(status, content)
    assert outcome.text is None and outcome.kind and len(outcome.reason) <= LONGEST_QUOTE + 80


@given(JSON, st.sampled_from([200, 400, 403, 429, 500]))
def test_any_json_is_an_outcome(answer, status):
    outcome = read_answer(status, json.dumps(answer).encode())
    assert (outcome.text is None) == (outcome.kind is not None)
    assert len(outcome.reason) <= LONGEST_QUOTE + 80 and outcome.reason.encode()


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"error":' * 100_000, b"[" * 500 + b"]" * 500])
@pytest.mark.parametrize("status", [200, 500])
def test_brackets_without_end_are_an_outcome_too(content, status):
    assert read_answer(status, content).kind in ("malformed", "status")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": {"message": "too\n long", "type": "x"}}, "too long"),
        ({"error": "busy"}, "busy"),
        ({"detail": "no such field"}, "no such field"),
        ({"error": True, "message": "busy"}, "busy"),
        ({"errors": [{"message": "one"}, {"message": "two"}]}, "one"),
        ({"base_resp": {"status_code": 1002, "status_msg": "too fast"}}, "too fast"),
        ([{"error": {"message": "first"}}], "first"),
        ([], ""),
        ({"choices": [{"message": {"content": "no error's words"}}]}, ""),
        ({"code": 7}, "{'code': 7}"),
        ("Bad Gateway", "Bad Gateway"),
        ("", ""),
    ],
)
def test_a_servers_words_are_found_where_servers_put_them(answer, words):
    assert words_of(answer) == words
