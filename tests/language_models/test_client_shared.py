"""Endpoints of one process that ask one model at one address share its limits, its circuit breaker and its budget."""

import gc
import threading
import time

import pytest
from endpoints import ask, endpoint
from faulty_server import FaultyServer

from emodistill.errors import UserError
from emodistill.language_models.budget import Spending
from emodistill.language_models.client import BreakerPolicy, RetryPolicy, Traffic
from emodistill.language_models.completion import Reply


def together(clients, count):
    """What each client is answered when all ask at the same time."""
    answers = {}

    def use(number, client):
        answers[number] = client.complete([ask(f"{number} {each}") for each in range(count)])

    threads = [threading.Thread(target=use, args=pair) for pair in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(clients))]


def test_two_stay_within_the_concurrency_of_one():
    with (
        FaultyServer(latency_s=0.05) as server,
        endpoint(server, traffic=Traffic(concurrency=3)) as judge,
        endpoint(server, traffic=Traffic(concurrency=3), retries=RetryPolicy(max_retries=0)) as speaker,
    ):
        for answers in together([judge, speaker], 20):
            assert all(isinstance(answer, Reply) for answer in answers)
    assert server.calls == 40 and server.most_at_once == 3


def test_two_stay_within_the_requests_a_minute_of_one():
    traffic = Traffic(concurrency=32, requests_per_minute=1200)
    with (
        FaultyServer() as server,
        endpoint(server, traffic=traffic) as judge,
        endpoint(server, traffic=traffic) as speaker,
    ):
        began = time.monotonic()
        together([judge, speaker], 20)
    assert server.calls == 40 and server.log[-1].at - began >= (40 - 20 - 1) / 20  # twenty a second, a second's at once


def test_another_model_at_the_same_address_has_limits_of_its_own():
    with (
        FaultyServer(latency_s=0.1) as server,
        endpoint(server, traffic=Traffic(concurrency=2)) as judge,
        endpoint(server, model="another", traffic=Traffic(concurrency=3)) as speaker,
    ):
        together([judge, speaker], 12)
    assert server.most_at_once == 5


def test_what_one_learns_of_a_failing_server_the_other_knows():
    settings = {"breaker": BreakerPolicy(failures=2, cooldown_s=60.0), "retries": RetryPolicy(max_retries=0)}
    with (
        FaultyServer(script=["500"] * 9) as server,
        endpoint(server, **settings, traffic=Traffic(concurrency=1)) as judge,
        endpoint(server, **settings, traffic=Traffic(concurrency=1)) as speaker,
    ):
        assert [answer.kind for answer in judge.complete([ask("1"), ask("2")])] == ["status"] * 2
        assert speaker.complete([ask()])[0].kind == "circuit" and server.calls == 2


def test_two_without_a_file_have_one_log_and_one_budget():
    with (
        FaultyServer() as server,
        endpoint(server, spending=Spending(max_tokens=200)) as judge,
        endpoint(server, spending=Spending(max_tokens=200)) as speaker,
    ):
        assert isinstance(judge.complete([ask()])[0], Reply)
        assert speaker.spending.of(speaker.name).calls == 1
        answers = [answer for each in together([judge, speaker], 40) for answer in each]
        assert {getattr(answer, "kind", "reply") for answer in answers} == {"reply", "budget"}
        assert speaker.spending.of(speaker.name).most_tokens == server.billed_tokens <= 200


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ({"traffic": Traffic(concurrency=2)}, {"traffic": Traffic(concurrency=9)}, ["concurrency=2", "concurrency=9"]),
        ({}, {"breaker": BreakerPolicy(failures=77)}, ["failures=5", "failures=77"]),
        ({"spending": Spending(max_tokens=11)}, {"spending": Spending()}, ["max_tokens=11", "max_tokens=None"]),
    ],
)
def test_contradicting_limits_are_refused_with_both_named(one, other, named):
    with FaultyServer() as server, endpoint(server, **one) as first:
        for _ in range(2):
            with pytest.raises(UserError, match=f"two endpoints ask m at {server.base_url}") as raised:
                endpoint(server, **other)
            assert all(words in str(raised.value) for words in named)
            first.complete([ask()])
        first.close()
        with endpoint(server, **other) as second:  # closed: the first has no say any more
            assert isinstance(second.complete([ask()])[0], Reply)
            with pytest.raises(UserError, match="two endpoints ask"):
                first.complete([ask()])


def test_the_thread_ends_with_the_last_of_them():
    before = threading.active_count()
    with FaultyServer() as server:
        running = threading.active_count()
        one, other = endpoint(server), endpoint(server)
        together([one, other], 2)
        assert threading.active_count() == running + 1
        one.close()
        assert isinstance(other.complete([ask()])[0], Reply)
        del other  # without being closed
        gc.collect()
        assert threading.active_count() == running
        assert isinstance(one.complete([ask()])[0], Reply)
        one.close()
    assert threading.active_count() == before


def test_closing_one_abandons_nothing_of_the_other():
    with FaultyServer(latency_s=0.3) as server, endpoint(server) as one, endpoint(server) as other:
        one.complete([ask("opened")])
        timer = threading.Timer(0.15, one.close)
        timer.start()
        assert isinstance(other.complete([ask("slow")])[0], Reply)
        timer.join()
