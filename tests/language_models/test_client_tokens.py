"""Requests of token ids, and for adapters: what goes over the wire, and what is read of the answers."""

import json

import pytest
from endpoints import PRICE, endpoint
from test_client_wire import Wire, http

from emodistill.language_models.answers import read_answer
from emodistill.language_models.budget import Spending
from emodistill.language_models.client import Dialect, RetryPolicy, likely_tokens, most_tokens
from emodistill.language_models.completion import AdapterRequest, Failure, Reply, TokenRequest

ASKED = TokenRequest((5, 6, 7), 8, temperature=0.7, seed=3, top_k=40, stop_ids=(2,), model="run-1")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def answer(choice, **more):
    given = {"text": "so be it", "finish_reason": "stop"}
    return {"model": "run-1", "choices": [given | choice], "usage": USAGE} | more


def read(content, status=200):
    return read_answer(status, json.dumps(content).encode(), tokens=True)


def told(tokens, logprobs, **more):
    return read(answer({"logprobs": {"tokens": tokens, "token_logprobs": logprobs}} | more)).drawn


def test_ids_are_read_in_both_ways_in_which_servers_tell_them():
    by_name = told(["token_id:31", "token_id:2"], [-0.5, -1])
    assert (by_name.ids, by_name.logprobs, by_name.words, by_name.model) == ((31, 2), (-0.5, -1.0), (), "run-1")
    assert told(["so", "</s>"], [-0.5, -1.0], token_ids=[31, 2]).ids == (31, 2)
    alone = read(answer({"token_ids": [31, 2]})).drawn
    assert alone.ids == (31, 2) and alone.logprobs == ()


def test_a_server_that_tells_words_alone_tells_no_ids():
    assert told(["so", " be"], [-0.5, -1.0]).ids is None and told(["so", " be"], [-0.5, -1.0]).words == ("so", " be")
    assert told(["so", " be", " it"], [-0.5] * 3, token_ids=[4, 5]).ids is None  # of the reply alone, not of the echo
    nothing = read(answer({"logprobs": None}))
    assert nothing.text == "so be it" and nothing.drawn.ids is None and nothing.drawn.logprobs == ()
    assert told(["token_id:31", "be"], [-0.5, -1.0]).ids is None


def test_a_log_probability_that_is_no_number_is_missing():
    assert told(["token_id:1"] * 5, [None, float("nan"), "-1", True, -(10**400)]).logprobs == (None,) * 5


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (answer({"logprobs": {"tokens": ["a"], "token_logprobs": []}}), "malformed", "1 tokens and 0 log-prob"),
        ({"model": "m", "choices": [{"message": {"content": "hello"}}]}, "malformed", "no text"),
        ({"choices": []}, "malformed", "no text"),
        (answer({"finish_reason": "content_filter"}), "malformed", "content filter"),
        (answer({"finish_reason": "abort"}), "status", "ended with abort"),
        ({"error": {"message": "The model `run-1` does not exist.", "code": 404}}, "status", "does not exist"),
    ],
)
def test_what_is_no_reply_is_a_failure(content, kind, words):
    outcome = read(content)
    assert outcome.text is None and outcome.kind == kind and words in outcome.reason


def test_a_reply_may_be_empty_and_is_cut_where_the_server_says_so():
    assert read(answer({"text": ""})).text == ""
    assert read(answer({"finish_reason": "length"})).cut and not read(answer({})).cut


def test_every_rule_of_drawing_is_named():
    """vLLM takes what is left open from the model's own settings."""
    body = json.loads(json.dumps(Dialect().token_body("base", ASKED)))
    assert {
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "temperature": 0.7,
        "top_k": 40,
    }.items() <= body.items()
    assert (body["model"], body["prompt"], body["stop_token_ids"], body["seed"]) == ("run-1", [5, 6, 7], [2], 3)
    assert body["max_tokens"] == 8 and body["logprobs"] == 1 and "echo" not in body
    plain = Dialect(omit=("min_p", "seed"), extra={"priority": 1}).token_body("base", TokenRequest((5,), 1, echo=True))
    assert plain["top_k"] == -1 and plain["model"] == "base" and plain["echo"] and plain["priority"] == 1
    assert "min_p" not in plain and "seed" not in plain


def test_tokens_are_paid_for_and_adapters_are_not(tmp_path):
    words = http(b"Success: LoRA adapter 'run-1' added successfully.")
    refused = http(json.dumps({"error": {"message": "No adapter found"}}).encode(), status="404 Not Found")
    reply = http(json.dumps(answer({"token_ids": [31, 2]})).encode())
    spending = Spending(path=str(tmp_path / "spending.json"), max_cost=1.0)
    with (
        Wire.sending(words, reply, refused) as wire,
        endpoint(wire, price=PRICE, spending=spending, retries=RetryPolicy(max_retries=0)) as client,
    ):
        (loaded,) = client.complete([AdapterRequest("run-1", "/adapters/run-1")])
        (drawn,) = client.complete([ASKED])
        (gone,) = client.complete([AdapterRequest("run-1")])
        spent = client.spending.of(client.name)
    assert isinstance(loaded, Reply) and loaded.usage.cost == 0.0 and isinstance(drawn, Reply)
    assert isinstance(gone, Failure) and gone.status == 404 and "No adapter found" in gone.reason
    assert (spent.calls, spent.prompt_tokens, spent.completion_tokens) == (3, 3, 2)
    assert spent.cost == pytest.approx((3 * PRICE["input"] + 2 * PRICE["output"]) / 1e6)
    lines = [request.split(b"\r\n")[0] for request in wire.requests]
    assert lines == [
        b"POST /v1/load_lora_adapter HTTP/1.1",
        b"POST /v1/completions HTTP/1.1",
        b"POST /v1/unload_lora_adapter HTTP/1.1",
    ]
    bodies = [json.loads(request.split(b"\r\n\r\n")[1]) for request in wire.requests]
    assert bodies[0] == {"lora_name": "run-1", "lora_path": "/adapters/run-1"} and bodies[2] == {"lora_name": "run-1"}
    assert most_tokens(ASKED) == likely_tokens(ASKED) == 11 and most_tokens(AdapterRequest("run-1")) == 0
