"""Calls and tokens a minute are kept, and each time-out ends what it is for."""

import asyncio
import selectors
import socket
import time

import pytest
from endpoints import ask, endpoint
from faulty_server import FaultyServer

from emodistill.errors import UserError
from emodistill.language_models.client import RateLimiter, RetryPolicy, Timeouts, Traffic
from emodistill.language_models.completion import Reply

ONCE = RetryPolicy(max_retries=0)


class SkippedWaits(selectors.SelectSelector):
    """Skips waits: `now` is the sum of the waits so far, and nothing else takes time."""

    now = 0.0

    def select(self, timeout=None):
        self.now += timeout or 0.0
        return super().select(0)


def timed(run):
    """What the coroutine `run(clock)` returns; `clock()` is in seconds from its beginning."""
    waits = SkippedWaits()

    def make_loop():
        loop = asyncio.SelectorEventLoop(waits)
        loop.time = lambda: waits.now
        return loop

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(run(lambda: waits.now))


def taken(per_minute, amounts):
    """When each amount of tokens was let through, in seconds."""

    async def run(clock):
        limiter, times = RateLimiter(Traffic(tokens_per_minute=per_minute)), []
        for amount in amounts:
            await limiter.admit(amount)
            times.append(clock())
        return times

    return timed(run)


def test_requests_a_minute_are_kept():
    with (
        FaultyServer() as server,
        endpoint(server, traffic=Traffic(concurrency=32, requests_per_minute=1200)) as client,
    ):
        began = time.monotonic()  # not at the first arrival: on a busy machine that one is late
        assert all(isinstance(answer, Reply) for answer in client.complete([ask(f"{n}") for n in range(40)]))
    assert server.log[-1].at - began >= (40 - 20 - 1) / 20  # twenty a second, and one second's worth at once


def test_tokens_a_minute_are_kept_by_what_was_really_taken():
    """Estimates are far too high here (500 tokens a reply that takes five): only the truth may slow it down."""
    traffic = Traffic(concurrency=1, tokens_per_minute=60_000)
    with FaultyServer() as server, endpoint(server, traffic=traffic) as client:
        began = time.monotonic()
        client.complete([ask(f"{number}", max_tokens=500) for number in range(40)])
        assert time.monotonic() - began < 5  # 20,000 estimated tokens would be 20 s


def test_tokens_really_taken_slow_it_down():
    traffic = Traffic(concurrency=8, tokens_per_minute=6000)  # a hundred a second
    with FaultyServer(lambda body: "word " * 50) as server, endpoint(server, traffic=traffic) as client:
        began = time.monotonic()
        client.complete([ask(f"{number}", max_tokens=50) for number in range(6)])
    assert server.log[-1].at - began >= 1.0


def test_a_second_may_go_at_once_and_then_the_rate():
    times = taken(600, [1] * 15)  # ten a second
    assert times[9] == 0.0 and times[14] == pytest.approx(0.5, abs=0.02)


def test_what_is_more_than_a_second_waits_for_its_time_and_so_does_the_next():
    times = taken(600, [25, 1])  # 10 at once, 15 at ten a second
    assert times == pytest.approx([1.5, 1.6], abs=0.02)


def test_a_correction_is_given_back_but_never_more_than_a_second_of_it():
    async def run(clock):
        limiter = RateLimiter(Traffic(tokens_per_minute=600))
        await limiter.admit(10)
        limiter.correct(1000, 0)
        await limiter.admit(10)
        at_once = clock()
        await limiter.admit(5)
        return at_once, clock()

    assert timed(run) == (0.0, pytest.approx(0.5, abs=0.02))


def test_the_first_to_come_is_the_first_to_go():
    """A large request is not overtaken by small ones for ever."""

    async def run():
        limiter, order = RateLimiter(Traffic(tokens_per_minute=1200)), []

        async def pass_one(amount):
            await limiter.admit(amount)
            order.append(amount)

        await asyncio.gather(*(pass_one(amount) for amount in (20, 15, 1, 2, 3)))
        return order

    assert asyncio.run(run()) == [20, 15, 1, 2, 3]


@pytest.mark.parametrize(
    ("timeouts", "bound_s", "words"),
    [
        (Timeouts(connect_s=1.0, first_byte_s=0.3, whole_s=5.0), 0.3, "no byte for 0.3 s"),
        (Timeouts(connect_s=1.0, first_byte_s=5.0, whole_s=0.4), 0.4, "no whole reply within 0.4 s"),
    ],
)
def test_a_silent_server_ends_in_the_time_out_that_is_first(timeouts, bound_s, words):
    with (
        FaultyServer(script=["hang"], hang_s=10) as server,
        endpoint(server, timeouts=timeouts, retries=ONCE) as client,
    ):
        (answer,) = client.complete([ask()])
    assert answer.kind == "timeout" and words in answer.reason
    assert bound_s <= answer.usage.latency_s < bound_s + 4.0


def test_a_connection_that_never_stands_ends_in_its_own_time_out():
    """A full backlog swallows connection attempts, as an unreachable host does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        port = listening.getsockname()[1]
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        with FaultyServer() as server:
            pass
        server.port = port
        with endpoint(server, timeouts=Timeouts(connect_s=0.3, first_byte_s=5.0, whole_s=5.0), retries=ONCE) as client:
            (answer,) = client.complete([ask()])
            assert client.spending.of(client.name).unmetered_calls == 0
        for filler in fillers:
            filler.close()
    assert answer.kind == "timeout" and "no connection within 0.3 s" in answer.reason


def test_a_slow_first_byte_within_its_time_is_a_reply():
    with FaultyServer(script=["slow_first_byte"], slow_s=0.3) as server, endpoint(server, retries=ONCE) as client:
        assert isinstance(client.complete([ask()])[0], Reply)


def test_the_latency_of_a_call_has_no_part_of_the_wait_for_its_turn():
    with FaultyServer(latency_s=0.2) as server, endpoint(server, traffic=Traffic(concurrency=1)) as client:
        began = time.monotonic()
        answers = client.complete([ask(f"{number}") for number in range(6)])
        took_s = time.monotonic() - began
    assert all(answer.usage.latency_s >= 0.2 for answer in answers)
    assert sum(answer.usage.latency_s for answer in answers) <= took_s  # with waits it would be 3.5 times as much


@pytest.mark.parametrize("given", [{"concurrency": 0}, {"requests_per_minute": 0}, {"tokens_per_minute": -1}])
def test_limits_that_let_nothing_through_are_refused(given):
    with pytest.raises(UserError, match=next(iter(given))):
        Traffic(**given)


def test_time_outs_of_no_time_are_refused():
    with pytest.raises(UserError, match="connect_s=0"):
        Timeouts(connect_s=0)
