"""Whatever a server does, every request gets one reply or one failure with its reason, and the bill is right."""

import math
import threading
import time
from collections import Counter

import pytest
from endpoints import QUICK, ask, endpoint
from faulty_replies import LOST
from faulty_server import MIXED, FaultyServer

from emodistill.errors import UserError
from emodistill.language_models.client import Endpoint, Timeouts, Traffic
from emodistill.language_models.completion import Completer, Failure, Reply

PRICE = {"input": 1.0, "output": 2.0}


@pytest.fixture(scope="module")
def mixed():
    """Two thousand requests, of which 30 % of the calls meet a fault of some kind."""
    timeouts = Timeouts(connect_s=20.0, first_byte_s=4.0, whole_s=60.0)  # or a busy machine adds faults of its own
    settings = {"price": PRICE, "traffic": Traffic(concurrency=32), "timeouts": timeouts}
    with FaultyServer(fault_rate=0.3, seed=1) as server, endpoint(server, **settings) as client:
        arrived = []
        requests = [ask(f"request number {number}") for number in range(2000)]
        began = time.monotonic()
        answers = client.complete(requests, lambda index, answer: arrived.append((index, answer)))
        yield server, client, answers, arrived, time.monotonic() - began


def test_every_request_is_answered_once_and_by_its_own_answer(mixed):
    server, _, answers, arrived, took_s = mixed
    assert len(answers) == 2000 and took_s < 120
    assert sorted(index for index, _ in arrived) == list(range(2000))
    assert all(answers[index] is answer for index, answer in arrived)
    spoilt = (
        '{"verdict": "fine"}',
        '{"score": 99, "reason": "far too good"}',
    )  # whole replies; whoever asked must look
    for number, answer in enumerate(answers):
        if isinstance(answer, Reply):
            assert answer.text in (f"You said: request number {number}", *spoilt) and not answer.cut
        else:
            assert answer.reason and answer.kind in ("status", "authentication", "quota", "malformed", "timeout")
    assert set(server.happened) == {None, *MIXED}
    assert sum(isinstance(answer, Reply) for answer in answers) > 1700


def test_the_bill_is_right_to_the_token(mixed):
    server, client, answers, _, _ = mixed
    tally = client.spending.of(client.name)
    assert tally.prompt_tokens + tally.completion_tokens == server.billed_tokens - server.lost_tokens
    assert tally.calls == server.calls == sum(answer.usage.attempts for answer in answers)
    assert tally.prompt_tokens == sum(answer.usage.prompt_tokens for answer in answers)
    assert tally.completion_tokens == sum(answer.usage.completion_tokens for answer in answers)
    assert math.isclose(tally.cost, (tally.prompt_tokens + 2 * tally.completion_tokens) / 1e6)
    assert math.isclose(tally.cost, sum(answer.usage.cost for answer in answers))


def test_what_may_have_been_charged_without_a_bill_is_counted_apart(mixed):
    server, client, _, _, _ = mixed
    tally = client.spending.of(client.name)
    assert tally.unmetered_calls == sum(server.happened[fault] for fault in (*LOST, "hang", "invalid_json"))
    assert tally.unmetered_tokens >= server.lost_tokens


def test_a_fault_fails_a_request_only_where_it_must(mixed):
    """With the retries of this policy, hardly a request can be lost to faults that are worth another call."""
    _, _, answers, _, _ = mixed
    kinds = Counter(answer.kind for answer in answers if isinstance(answer, Failure))
    assert kinds["status"] + kinds["timeout"] <= 10
    assert min(kinds["malformed"], kinds["authentication"], kinds["quota"]) > 10


def test_the_same_faults_meet_any_concurrency():
    found = []
    for concurrency in (1, 16):
        with (
            FaultyServer(fault_rate=0.3, faults=("429", "500", "401", "truncated"), seed=3) as server,
            endpoint(server, traffic=Traffic(concurrency=concurrency)) as client,
        ):
            answers = client.complete([ask(f"{number}") for number in range(60)])
            found.append([getattr(answer, "kind", "reply") for answer in answers])
    assert found[0] == found[1] and len(set(found[0])) > 2


def test_no_more_calls_at_a_time_than_allowed():
    with FaultyServer(latency_s=0.05) as server, endpoint(server, traffic=Traffic(concurrency=5)) as client:
        assert all(isinstance(answer, Reply) for answer in client.complete([ask(f"{n}") for n in range(40)]))
        assert server.most_at_once == 5


def test_several_threads_share_an_endpoint_and_each_hears_of_its_own():
    heard = {}

    def use(client, who):
        mine = []
        answers = client.complete(
            [ask(f"{who} {number}") for number in range(50)],
            lambda index, answer: mine.append((index, answer.text, threading.get_ident())),
        )
        heard[who] = (threading.get_ident(), mine, [answer.text for answer in answers])

    with FaultyServer(fault_rate=0.2, faults=("500", "429")) as server, endpoint(server) as client:
        threads = [threading.Thread(target=use, args=(client, who)) for who in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.most_at_once <= 8
    for who, (thread, mine, texts) in heard.items():
        assert texts == [f"You said: {who} {number}" for number in range(50)]
        assert sorted(mine) == sorted((index, text, thread) for index, text in enumerate(texts))


def test_answers_are_told_as_they_arrive():
    order, requests = [], [ask("first"), ask("second")]
    with (
        FaultyServer(script=["slow_first_byte"], slow_s=0.3) as server,
        endpoint(server, traffic=Traffic(concurrency=1)) as client,
    ):
        client.complete(requests, lambda index, _: order.append(index))
        assert order == [0, 1]
    with FaultyServer(script=["slow_first_byte"], slow_s=0.3) as server, endpoint(server) as client:
        client.complete(requests, lambda index, _: order.append(index))
        slow = [request.messages[0].content for request in requests].index(server.log[0].body["messages"][0]["content"])
        assert order[2:] == [1 - slow, slow]


def test_an_exception_of_the_listener_abandons_the_rest_and_passes():
    def stop(index, answer):
        raise KeyboardInterrupt

    with FaultyServer(latency_s=0.05) as server, endpoint(server, traffic=Traffic(concurrency=2)) as client:
        with pytest.raises(KeyboardInterrupt):
            client.complete([ask(f"{number}") for number in range(100)], stop)
        time.sleep(0.3)
        made = server.calls
        time.sleep(0.2)
        assert server.calls == made < 10
        assert isinstance(client.complete([ask("afterwards")])[0], Reply)


def test_no_requests_no_calls():
    with FaultyServer() as server, endpoint(server) as client:
        assert client.complete([]) == [] and server.calls == 0


def test_a_reply_cut_at_its_limit_says_so():
    with FaultyServer(finish_reason="length") as server, endpoint(server) as client:
        assert client.complete([ask("tell me more")])[0].cut


def test_a_server_that_is_not_there_is_a_failure():
    with FaultyServer() as server:
        pass
    with endpoint(server, price=PRICE) as client:
        (answer,) = client.complete([ask()])
        assert answer.kind == "connection" and answer.usage.attempts == 1 + QUICK.max_retries
        assert client.spending.of(client.name).unmetered_calls == 0  # nothing was sent, so nothing can cost


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"base_url": None}, "base_url"),
        ({"base_url": "api.example.com/v1"}, "base_url"),
        ({"base_url": "http://127.0.0.1:99999/v1"}, "base_url"),
        ({"base_url": "https://me:secret@api.example.com/v1"}, "api_key_env"),
        ({"base_url": "https://api.example.com/v1?key=secret"}, "api_key_env"),
        ({"model": None}, "model"),
        ({"price": {"input": 1.0}}, "price"),
        ({"price": {"input": 1.0, "output": -1.0}}, "price"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(given, word):
    with pytest.raises(UserError, match=word) as raised:
        Endpoint(**({"base_url": "https://api.example.com/v1", "model": "m"} | given))
    assert "secret" not in str(raised.value)


def test_it_is_a_completer_with_a_name():
    client: Completer = Endpoint("http://127.0.0.1:8000/v1/", "org/model")
    assert client.name == "org/model at http://127.0.0.1:8000/v1"
    assert client.name in repr(client)
