"""A run ends with what its endpoints cost, however it ends."""

import pytest
from faulty_server import FaultyServer
from omegaconf import OmegaConf

from commands import entry
from emodistill.language_models.budget import Spending
from emodistill.language_models.client import Endpoint
from emodistill.language_models.completion import CompletionRequest, Message


@pytest.fixture
def config(tmp_path):
    return OmegaConf.create({"endpoint": {"spending": {"path": str(tmp_path / "run" / "spending.json")}}})


def ask(server, path):
    with Endpoint(server.base_url, "gpt-4o-mini", spending=Spending(path)) as endpoint:
        endpoint.complete([CompletionRequest((Message("user", "word " * 1000),), 10)])


def test_a_run_that_asks_an_endpoint_ends_with_the_bill(config, capsys):
    with FaultyServer(lambda body: "word " * 500) as server, entry.paid(config):
        ask(server, config.endpoint.spending.path)
    told = capsys.readouterr().out
    assert "gpt-4o-mini at http://127.0.0.1" in told and "1 calls, 1,000 tokens read, 500 written, USD 0.0004" in told


def test_so_does_one_that_is_stopped(config, capsys):
    with FaultyServer() as server, pytest.raises(KeyboardInterrupt), entry.paid(config):
        ask(server, config.endpoint.spending.path)
        raise KeyboardInterrupt
    assert "1 calls" in capsys.readouterr().out


def test_one_that_asks_none_says_nothing(config, capsys):
    with entry.paid(config):
        pass
    config.endpoint.spending.path = None
    with entry.paid(config):
        pass
    assert capsys.readouterr().out == ""


def test_of_several_processes_one_tells(config, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with FaultyServer() as server, entry.paid(config):
        ask(server, config.endpoint.spending.path)
    assert capsys.readouterr().out == ""
