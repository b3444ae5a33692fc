"""What is sent: fields by request and by what the server understands."""

import json

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


CHAT = (Message("system", "Be firm."), Message("user", "900?"), Message("assistant", "No."), Message("user", "800?"))


def sent_as(role, chat=CHAT):
    """Roles and words of a chat's messages as they go out."""
    body = sent(CompletionRequest(chat, 5), dialect=Dialect(system_role=role))
    return [(message["role"], message["content"]) for message in body["messages"]]


def test_the_systems_words_are_said_by_whom_the_server_knows():
    rest = [("user", "900?"), ("assistant", "No."), ("user", "800?")]
    assert sent_as("auto") == sent_as("system") == [("system", "Be firm."), *rest]
    assert sent_as("developer") == [("developer", "Be firm."), *rest]
    assert sent_as("user") == [("user", "Be firm.\n\n900?"), *rest[1:]]


def test_a_chat_without_a_system_is_sent_as_it_is_and_one_of_it_alone_too():
    assert sent_as("user", CHAT[1:]) == [("user", "900?"), ("assistant", "No."), ("user", "800?")]
    assert sent_as("user", CHAT[:1]) == [("user", "Be firm.")]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        *((400, "System role not supported"), (500, "Jinja Exception: System role not supported")),
        *(
            (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
            (422, "Unexpected role 'system'"),
        ),
        *((400, "Only user and assistant roles are supported!"), (400, 'Invalid role: "system"')),
        *(
            (400, "Developer instruction is not enabled for models/gemma-3-12b-it"),
            (400, "role 'system' is not allowed"),
        ),
        *(
            (400, "messages[0].role does not support 'system' with this model."),
            (400, "This model doesn't support system"),
        ),
        *((400, "The system message is not supported"), (422, "Input should be 'user' or 'assistant'")),
    ],
)
def test_a_server_without_a_system_gets_its_words_from_the_user(status, words):
    """At once, without a retry, and from then on."""
    refusal = (status, {"error": {"message": words, "code": status}}, {})
    with FaultyServer(script=[refusal]) as server, endpoint(server, retries=RetryPolicy(max_retries=0)) as client:
        for _ in range(2):
            assert isinstance(client.complete([CompletionRequest(CHAT, 5)])[0], Reply)
    assert [call.body["messages"][0]["role"] for call in server.log] == ["system", "user", "user"]


@pytest.mark.parametrize(
    ("words", "role", "chat"),
    [
        *(("The system is overloaded", "auto", CHAT), ("system prompt too long", "auto", CHAT)),
        *(("System role not supported", "system", CHAT), ("System role not supported", "auto", CHAT[1:])),
        ("Your message does not support this", "auto", CHAT),
    ],
)
def test_words_stay_where_they_are_for_any_other_refusal(words, role, chat):
    refusal = (400, {"error": {"message": words}}, {})
    with (
        FaultyServer(script=[refusal]) as server,
        endpoint(server, dialect=Dialect(system_role=role)) as client,
    ):
        (answer,) = client.complete([CompletionRequest(chat, 5)])
    assert answer.kind == "status" and words in answer.reason and server.calls == 1


BARE = (500, b"Internal Server Error", {})  # of `transformers serve`, whatever was raised


def asked_by(script, chat=CHAT, role="auto", requests=1, retries=0):
    """Answers to the same request, asked one after the other, and whose words came first in each call."""
    policy = RetryPolicy(max_retries=retries, base_s=0.01)
    with (
        FaultyServer(script=script) as server,
        endpoint(server, retries=policy, dialect=Dialect(system_role=role)) as client,
    ):
        answers = [client.complete([CompletionRequest(chat, 5)])[0] for _ in range(requests)]
    return answers, [call.body["messages"][0]["role"] for call in server.log]


def test_a_refusal_that_hides_its_reason_may_be_one_of_the_system():
    """Each request is asked both ways: nothing says that the reason is the same."""
    detail = (500, {"detail": "Internal Server Error"}, {})
    answers, roles = asked_by([BARE, None, detail, None], requests=2)
    assert roles == ["system", "user"] * 2
    assert [(type(answer), answer.usage.attempts) for answer in answers] == [(Reply, 2)] * 2


def test_a_server_that_took_the_system_before_has_another_reason():
    answers, roles = asked_by([None, BARE, None], requests=2, retries=1)
    assert roles == ["system"] * 3 and all(isinstance(answer, Reply) for answer in answers)


def test_a_server_that_answers_nobody_is_given_up_after_its_retries():
    (answer,), roles = asked_by([BARE] * 4, retries=1)
    assert roles == ["system", "user"] * 2
    assert (answer.kind, answer.reason) == ("status", "status 500: Internal Server Error after 4 calls")


@pytest.mark.parametrize(
    ("refusal", "chat", "role"),
    [
        *((BARE, CHAT[1:], "auto"), (BARE, CHAT, "system"), (BARE, CHAT, "developer"), (BARE, CHAT, "user")),
        *(((500, b"out of memory", {}), CHAT, "auto"), ((503, b"Internal Server Error", {}), CHAT, "auto")),
    ],
)
def test_no_other_failure_is_taken_for_one_of_the_system(refusal, chat, role):
    (answer,), roles = asked_by([refusal], chat, role)
    assert answer.kind == "status" and len(roles) == 1


def test_a_server_that_refuses_the_form_too_gets_both_in_another_way():
    script = [
        (400, {"message": "response_format of this type is unavailable"}, {}),
        (400, {"message": "System role not supported"}, {}),
    ]
    with FaultyServer(script=script) as server, endpoint(server, retries=RetryPolicy(max_retries=0)) as client:
        assert isinstance(client.complete([CompletionRequest(CHAT, 5, schema=SCHEMA)])[0], Reply)
    asked = [(c.body["messages"][0]["role"], c.body["response_format"]["type"]) for c in server.log]
    assert asked == [("system", "json_schema"), ("system", "json_object"), ("user", "json_object")]


@pytest.mark.parametrize("words", ["json_schema is not supported", "System role not supported"])
def test_a_refusal_inside_status_200_is_one_too(words):
    refusal = (200, {"error": {"code": 400, "message": words}}, {})
    with FaultyServer(script=[refusal]) as server, endpoint(server, retries=RetryPolicy(max_retries=0)) as client:
        assert isinstance(client.complete([CompletionRequest(CHAT, 5, schema=SCHEMA)])[0], Reply)
    assert server.calls == 2 and server.log[0].body != server.log[1].body


def test_one_authorization_is_enough():
    with FaultyServer() as server, pytest.raises(UserError, match="keep one"):
        endpoint(server, api_key_env="KEY", dialect=Dialect(headers={"authorization": "OTHER"}))


def test_a_query_stands_at_the_end_of_the_address():
    query = {"api-version": "2024-10-21", "deployment": "my model&more", "n": 1}
    with FaultyServer() as server, endpoint(server, dialect=Dialect(query=query)) as client:
        assert isinstance(client.complete([ask()])[0], Reply)
    assert server.log[0].query == "api-version=2024-10-21&deployment=my+model%26more&n=1"


def test_headers_are_sent_with_the_values_of_the_environment(monkeypatch):
    monkeypatch.setenv("AZURE_KEY", "d41d8cd98f00b204")
    monkeypatch.setenv("ROUTE", "eu west; fast")
    dialect = Dialect(headers={"api-key": "AZURE_KEY", "X-Route": "ROUTE"})
    with FaultyServer() as server, endpoint(server, dialect=dialect) as client:
        assert isinstance(client.complete([ask()])[0], Reply)
    headers = server.log[0].headers
    assert (headers["api-key"], headers["x-route"]) == ("d41d8cd98f00b204", "eu west; fast")
    assert "authorization" not in headers and headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", ["Host", "content-length", "Content-Type", "two words", "a:b", "", "x\ny"])
def test_a_header_that_cannot_be_set_is_refused(name):
    with pytest.raises(UserError, match="dialect"):
        Dialect(headers={name: "VARIABLE"})


def test_what_changes_a_reply_is_in_the_recipe_and_nothing_else_is():
    settings = [
        {"structure": "off"},
        {"system_role": "user"},
        {"system_role": "developer"},
        {"max_tokens_field": "max_completion_tokens"},
        {"omit": ("seed",)},
        {"extra": {"reasoning_effort": "low"}},
        {"extra": {"chat_template_kwargs": {"enable_thinking": False}}},
        {"query": {"api-version": "1"}},
        {"headers": {"X-Route": "ROUTE"}},
    ]
    recipes = [json.dumps(Dialect(**setting).recipe()) for setting in settings]
    assert Dialect().recipe() == {} and len(set(recipes)) == len(settings) and "{}" not in recipes
    assert "ROUTE" not in recipes[-1]  # neither a value nor where it comes from


def test_a_table_that_is_not_set_is_empty():
    assert Dialect(extra=None, query=None, headers=None) == Dialect()
