"""What is sent: fields by request and by what the server understands."""

import pytest
from endpoints import ask, endpoint
from faulty_server import FaultyServer
from hypothesis import given
from hypothesis import strategies as st

from emodistill.errors import UserError
from emodistill.language_models.client import Dialect, RetryPolicy, most_tokens
from emodistill.language_models.completion import CompletionRequest, Message, Reply

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


def sent(request, **settings):
    """The body that one request becomes."""
    with FaultyServer() as server, endpoint(server, **settings) as client:
        assert isinstance(client.complete([request])[0], Reply)
    return server.log[0].body


def test_a_request_is_put_as_the_protocol_has_it():
    request = CompletionRequest((Message("system", "Be firm."), Message("user", "900?")), 20, 0.7, 5, SCHEMA)
    assert sent(request) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be firm."}, {"role": "user", "content": "900?"}],
        "max_tokens": 20,
        "temperature": 0.7,
        "seed": 5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": SCHEMA},
        },
    }
    assert sent(ask(max_tokens=3)).keys() == {"model", "messages", "max_tokens", "temperature"}


def test_fields_can_be_renamed_left_out_and_added():
    dialect = Dialect(
        structure="json_object",
        max_tokens_field="max_completion_tokens",
        omit=("temperature",),
        extra={"reasoning_effort": "low"},
    )
    body = sent(ask(max_tokens=3, seed=1, schema=SCHEMA), dialect=dialect)
    assert body["max_completion_tokens"] == 3 and body["reasoning_effort"] == "low" and body["seed"] == 1
    assert body["response_format"] == {"type": "json_object"}
    assert body.keys() & {"max_tokens", "temperature"} == set()


@pytest.mark.parametrize(
    ("refused", "formats"),
    [
        ([], ["json_schema"] * 3),
        (["400"], ["json_schema", "json_object", "json_object", "json_object"]),
        (["422", "400"], ["json_schema", "json_object", None, None, None]),
    ],
)
def test_a_schema_is_asked_for_in_the_strongest_way_the_server_takes(refused, formats):
    """It falls back at once, without counting as a retry, and remembers."""
    words = "response_format of this type is unavailable"
    with (
        FaultyServer(script=refused, quote=words) as server,
        endpoint(server, retries=RetryPolicy(max_retries=0)) as client,
    ):
        for number in range(3):
            assert isinstance(client.complete([ask(f"{number}", schema=SCHEMA)])[0], Reply)
    asked = [call.body.get("response_format", {}).get("type") for call in server.log]
    assert asked == formats


def test_a_refusal_for_another_reason_changes_nothing():
    with FaultyServer(script=["400"], quote="too long") as server, endpoint(server) as client:
        assert client.complete([ask(schema=SCHEMA)])[0].kind == "status"
        client.complete([ask(schema=SCHEMA)])
    assert [call.body["response_format"]["type"] for call in server.log] == ["json_schema"] * 2


def test_an_order_to_ask_in_one_way_is_kept():
    with (
        FaultyServer(script=["400"], quote="json_schema unknown") as server,
        endpoint(server, dialect=Dialect(structure="json_schema")) as client,
    ):
        assert client.complete([ask(schema=SCHEMA)])[0].kind == "status" and server.calls == 1


def test_an_unknown_structure_is_refused():
    with pytest.raises(UserError, match="structure=xml"):
        Dialect(structure="xml")


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4), st.integers(1, 50))
def test_no_request_can_take_more_than_its_bound(texts, max_tokens):
    """A byte is the smallest token there is."""
    request = CompletionRequest(tuple(Message("user", text) for text in texts), max_tokens)
    assert most_tokens(request) >= sum(len(text.encode("utf-8", "replace")) for text in texts) + max_tokens
