"""A server that keeps failing is left alone for a while, and one request finds out when it is back."""

import time

import pytest
from endpoints import ask, endpoint
from faulty_server import FaultyServer

from emodistill.errors import UserError
from emodistill.language_models.client import BreakerPolicy, RetryPolicy, Traffic

ONE_AT_A_TIME = {"traffic": Traffic(concurrency=1), "retries": RetryPolicy(max_retries=0)}


def kinds(client, count):
    return [getattr(answer, "kind", "reply") for answer in client.complete([ask(f"{n}") for n in range(count)])]


def test_it_opens_after_failures_in_a_row_and_spares_the_server():
    with (
        FaultyServer(script=["500"] * 3) as server,
        endpoint(server, breaker=BreakerPolicy(failures=3, cooldown_s=60.0), **ONE_AT_A_TIME) as client,
    ):
        answers = client.complete([ask(f"{number}") for number in range(10)])
    assert [answer.kind for answer in answers] == ["status"] * 3 + ["circuit"] * 7 and server.calls == 3
    assert "failed 3 times in a row" in answers[-1].reason and answers[-1].usage.attempts == 0


def test_a_success_between_failures_keeps_it_closed():
    script = ["500", "500", None] * 4
    with (
        FaultyServer(script=script) as server,
        endpoint(server, breaker=BreakerPolicy(failures=3, cooldown_s=60.0), **ONE_AT_A_TIME) as client,
    ):
        assert kinds(client, 12) == ["status", "status", "reply"] * 4


def test_retries_bridge_a_short_outage_without_opening_it():
    retries = RetryPolicy(max_retries=5, base_s=0.01)
    with (
        FaultyServer(script=["503"] * 10) as server,
        endpoint(
            server, breaker=BreakerPolicy(failures=2, cooldown_s=60.0), retries=retries, traffic=Traffic(concurrency=4)
        ) as client,
    ):
        assert kinds(client, 20) == ["reply"] * 20


@pytest.mark.parametrize("fault", ["429", "400", "422", "truncated"])
def test_what_speaks_of_a_request_does_not_open_it(fault):
    with (
        FaultyServer(script=[fault] * 10) as server,
        endpoint(server, breaker=BreakerPolicy(failures=2, cooldown_s=60.0), **ONE_AT_A_TIME) as client,
    ):
        assert "circuit" not in kinds(client, 12) and server.calls == 12


@pytest.mark.parametrize("fault", ["401", "quota", "reset", "404"])
def test_what_speaks_of_the_server_does(fault):
    """A refused key or an empty account would be refused ten thousand times."""
    with (
        FaultyServer(script=[fault] * 10) as server,
        endpoint(server, breaker=BreakerPolicy(failures=2, cooldown_s=60.0), **ONE_AT_A_TIME) as client,
    ):
        assert kinds(client, 12)[2:] == ["circuit"] * 10 and server.calls == 2


def test_after_a_while_one_probe_goes_and_decides():
    breaker = BreakerPolicy(failures=2, cooldown_s=2.0)  # longer than a busy machine stands still
    with (
        FaultyServer(script=["500"] * 3) as server,
        endpoint(server, breaker=breaker, **ONE_AT_A_TIME) as client,
    ):
        assert kinds(client, 4) == ["status", "status", "circuit", "circuit"]
        time.sleep(2.05)
        assert kinds(client, 3) == ["status", "circuit", "circuit"]  # the probe fails: open again
        time.sleep(2.05)
        assert kinds(client, 3) == ["reply"] * 3  # the probe succeeds: closed
        assert server.calls == 6


def test_while_the_probe_is_under_way_nothing_else_is_asked():
    breaker = BreakerPolicy(failures=1, cooldown_s=0.0)
    with (
        FaultyServer(script=["500"], latency_s=0.2) as server,
        endpoint(server, breaker=breaker, retries=RetryPolicy(max_retries=0), traffic=Traffic(concurrency=8)) as client,
    ):
        assert kinds(client, 1) == ["status"]
        assert sorted(kinds(client, 6)) == ["circuit"] * 5 + ["reply"] and server.calls == 2


def test_a_probe_is_not_tried_again_and_again():
    breaker = BreakerPolicy(failures=1, cooldown_s=0.0)
    with (
        FaultyServer(script=["500"] * 20) as server,
        endpoint(server, breaker=breaker, retries=RetryPolicy(max_retries=4, base_s=0.0)) as client,
    ):
        assert kinds(client, 1) == ["status"] and server.calls == 5
        assert kinds(client, 1) == ["status"] and server.calls == 6


def test_an_abandoned_probe_leaves_room_for_the_next():
    def stop(index, answer):
        raise KeyboardInterrupt

    breaker = BreakerPolicy(failures=1, cooldown_s=0.0)
    with (
        FaultyServer(script=["500", "hang"], hang_s=5.0) as server,
        endpoint(server, breaker=breaker, retries=RetryPolicy(max_retries=0), traffic=Traffic(concurrency=8)) as client,
    ):
        assert kinds(client, 1) == ["status"]
        with pytest.raises(KeyboardInterrupt):
            client.complete([ask("probe"), ask("refused")], stop)
        time.sleep(0.1)
        assert kinds(client, 1) == ["reply"]


@pytest.mark.parametrize("given", [{"failures": 0}, {"cooldown_s": -1.0}])
def test_settings_without_sense_are_refused(given):
    with pytest.raises(UserError, match=f"breaker: {next(iter(given))}"):
        BreakerPolicy(**given)
