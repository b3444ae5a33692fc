"""The client against a real server with a real model, directly and with faults between."""

import pytest
from faulty_server import FaultyServer

from emodistill.language_models.client import Endpoint, RetryPolicy, Traffic
from emodistill.language_models.completion import CompletionRequest, Failure, Message, Reply
from emodistill.language_models.local import load_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer"}},
    "required": ["score"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(model_server):
    with Endpoint(model_server.base_url, model_server.model, traffic=Traffic(concurrency=1)) as endpoint:
        yield endpoint


def ask(words, max_tokens=8, **settings):
    return CompletionRequest(
        (Message("system", "You rent out a flat."), Message("user", words)), max_tokens, **settings
    )


def test_a_chat_is_continued_and_its_tokens_are_counted(client, model_server):
    request = ask("Would you take 900 a month?")
    first, again = client.complete([request, request])
    assert isinstance(first, Reply) and first.text.strip() and first.text == again.text  # greedy
    assert first.cut and first.usage.completion_tokens == 8
    chat = [{"role": message.role, "content": message.content} for message in request.messages]
    tokens = load_tokenizer(model_server.model).apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert first.usage.prompt_tokens == len(tokens)
    assert first.usage.attempts == 1 and first.usage.latency_s > 0 and first.usage.cost is None


def test_the_server_samples(client):
    """At this temperature three replies of eight tokens are not one; that a seed repeats holds with one client only."""
    replies = client.complete([ask("Tell me of the flat.", temperature=1.5, seed=seed) for seed in (1, 2, 3)])
    assert len({reply.text for reply in replies}) > 1


def test_a_schema_that_the_server_cannot_enforce_is_no_failure(client):
    (answer,) = client.complete([ask("Give a score.", schema=SCHEMA)])
    assert isinstance(answer, Reply)


def test_a_model_that_is_not_served_is_a_failure_that_names_it(model_server):
    with Endpoint(model_server.base_url, "another-model") as endpoint:
        (answer,) = endpoint.complete([ask("Hello")])
    assert answer.kind == "status" and "another-model" in answer.reason and answer.usage.attempts == 1


def test_replies_of_the_model_pass_through_faults_with_the_right_bill(model_server):
    faults = ("429_retry_after", "500", "reset", "truncated", "401")  # of the first calls, whoever makes them
    with (
        FaultyServer(upstream=model_server.base_url, script=faults) as server,
        Endpoint(server.base_url, model_server.model, retries=RetryPolicy(base_s=0.01)) as endpoint,
    ):
        answers = endpoint.complete([ask(f"Would you take {price}?", max_tokens=4) for price in range(500, 580, 10)])
        spent = endpoint.spending.of(endpoint.name)
    assert spent.prompt_tokens + spent.completion_tokens == server.billed_tokens - server.lost_tokens > 0
    assert {type(answer) for answer in answers} == {Reply, Failure} and server.happened[None] < server.calls
