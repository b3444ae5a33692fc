"""The key goes from the environment to the server and nowhere else."""

import json
import logging
import pickle
import traceback

import pytest
from endpoints import HASTY, PATIENT, ask, endpoint
from faulty_server import FaultyServer

from emodistill.errors import UserError
from emodistill.language_models.budget import Spending
from emodistill.language_models.client import Dialect, RetryPolicy
from emodistill.language_models.completion import Failure

KEY = "sk-9f3c27d1e8b64a05"
ONCE = RetryPolicy(max_retries=0)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)


def repeats_the_key(body):
    """A server that puts what it was sent into its answer."""
    return f"you are {KEY}"


def test_the_key_reaches_the_server():
    with FaultyServer() as server, endpoint(server, api_key_env="JUDGE_KEY") as client:
        client.complete([ask()])
    assert server.log[0].headers["authorization"] == f"Bearer {KEY}"


def test_nothing_of_the_environment_reaches_a_server_that_wants_no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Mine: {KEY}")
    with FaultyServer() as server, endpoint(server) as client:
        client.complete([ask()])
    assert "authorization" not in server.log[0].headers and KEY not in json.dumps(server.log[0].headers)


@pytest.mark.parametrize("fault", ["401", "403", "400", "429", "500", "quota", "reset", "truncated", "hang", None])
def test_no_failure_log_or_object_shows_it(fault, caplog, tmp_path, capfd):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "spending.json"
    with FaultyServer(repeats_the_key, script=[fault] * 9, hang_s=5.0, quote=KEY) as server:
        once = {"retries": ONCE, "timeouts": HASTY if fault == "hang" else PATIENT}
        client = endpoint(server, api_key_env="JUDGE_KEY", spending=Spending(str(path)), **once)
        with client:
            answers = client.complete([ask()])
            shown = [repr(answers), repr(client), client.name, repr(vars(client)), caplog.text, path.read_text()]
    assert isinstance(answers[0], Failure) == (fault is not None)
    assert KEY not in "\n".join([*shown, *capfd.readouterr()])


@pytest.mark.parametrize("fault", ["401", "403", "400", "429", "500", "quota", "truncated", None])
def test_no_failure_log_or_object_shows_the_value_of_a_header(fault, caplog, tmp_path, capfd):
    caplog.set_level(logging.DEBUG)
    path, dialect = tmp_path / "spending.json", Dialect(headers={"api-key": "JUDGE_KEY"})
    with FaultyServer(repeats_the_key, script=[fault] * 9, quote=KEY) as server:
        client = endpoint(server, dialect=dialect, retries=ONCE, spending=Spending(str(path)))
        with client:
            answers = client.complete([ask()])
            shown = [repr(answers), repr(client), repr(vars(client)), caplog.text, path.read_text()]
        shown.append(json.dumps(client.recipe))
    assert KEY not in "\n".join([*shown, *capfd.readouterr()])


def test_a_key_that_is_written_with_escapes_is_found_too(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk/9f3c27d1/e8b64a05")
    escaped = b'{"error": {"message": "bad field for sk\\/9f3c27d1\\/e8b6\\u0034a05"}}'
    with (
        FaultyServer(script=[(400, escaped, {})]) as server,
        endpoint(server, api_key_env="JUDGE_KEY", retries=ONCE) as client,
    ):
        (answer,) = client.complete([ask()])
    assert "bad field for [key]" in answer.reason


def test_a_short_value_of_a_header_leaves_words_alone(monkeypatch):
    """It is no secret, and a reply must not lose its letters."""
    monkeypatch.setenv("ROUTE", "eu")
    with (
        FaultyServer(lambda body: "a neutral offer") as server,
        endpoint(server, dialect=Dialect(headers={"X-Route": "ROUTE"})) as client,
    ):
        assert client.complete([ask()])[0].text == "a neutral offer"


@pytest.mark.parametrize("value", [None, "", "a\nb", "é"])
def test_a_header_without_a_value_is_named_by_its_variable_only(monkeypatch, value):
    monkeypatch.delenv("ROUTE", raising=False) if value is None else monkeypatch.setenv("ROUTE", value)
    with FaultyServer() as server, endpoint(server, dialect=Dialect(headers={"X-Route": "ROUTE"})) as client:
        with pytest.raises(UserError, match="ROUTE"):
            client.complete([ask()])
        assert server.calls == 0


def test_a_refused_key_is_not_quoted_even_in_part():
    """Such answers like to show the first and last letters."""
    with (
        FaultyServer(script=["401"], quote="Incorrect API key: sk-9f***4a05") as server,
        endpoint(server, api_key_env="JUDGE_KEY") as client,
    ):
        (answer,) = client.complete([ask()])
    assert answer.kind == "authentication" and "sk-" not in answer.reason


def test_an_endpoint_that_is_sent_to_another_process_has_the_name_of_its_key_and_not_the_key():
    with FaultyServer() as server, endpoint(server, api_key_env="JUDGE_KEY") as client:
        client.complete([ask()])
        sent = pickle.dumps(client)
    assert b"JUDGE_KEY" in sent and KEY.encode() not in sent


def test_an_exception_on_the_way_does_not_show_it():
    def fail(index, answer):
        raise RuntimeError("a bug")

    with (
        FaultyServer() as server,
        endpoint(server, api_key_env="JUDGE_KEY") as client,
        pytest.raises(RuntimeError) as raised,
    ):
        client.complete([ask()], fail)
    assert KEY not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("value", [None, "", "  ", f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}é"])
def test_a_key_that_cannot_be_one_is_named_by_its_variable_only(monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY") if value is None else monkeypatch.setenv("JUDGE_KEY", value)
    with FaultyServer() as server, endpoint(server, api_key_env="JUDGE_KEY") as client:
        with pytest.raises(UserError, match="JUDGE_KEY") as raised:
            client.complete([ask()])
        assert KEY not in str(raised.value) and server.calls == 0


def test_a_redirect_does_not_take_the_key_along():
    with FaultyServer() as elsewhere, FaultyServer(script=["307"], location=elsewhere.base_url) as server:
        with endpoint(server, api_key_env="JUDGE_KEY") as client:
            (answer,) = client.complete([ask()])
        assert answer.kind == "status" and "307" in answer.reason and elsewhere.calls == 0
