"""Who may ask, how much, and what becomes of clients that misbehave."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_server import FaultyServer
from serving_cases import serving, wait_for

from emodistill import Negotiator
from emodistill.errors import UserError
from emodistill.serving.app import Limits
from emodistill.serving.gate import Gate, check_exposed
from emodistill.serving.lockstep import Lockstep
from emodistill.serving.protocol import Refusal

ARM = "phrasebook_random"
HELLO = [{"role": "user", "content": "I want it in 20 days."}]
TOKEN = "a-token-of-this-test"


def opening(served, seed=0):
    return {"model": ARM, "messages": [], "metadata": {"scenario": served.scenario, "seed": str(seed)}}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"model": "x", "messages": [', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"model": "x", "messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_json"),
        (b"null", "invalid_field"),
        (b'"text"', "invalid_field"),
    ],
)
def test_malformed_json(served, content, code):
    message = served.refused(400, code, content=content)
    assert len(message) < 300


def test_a_megabyte_of_words(served):
    body = opening(served) | {"messages": [{"role": "user", "content": "word " * 200_000}]}
    assert "at most 524,288 are read" in served.refused(413, "too_large", json=body)
    assert served.client.post("/v1/chat/completions", json=opening(served)).status_code == 200


def test_ten_thousand_turns(served):
    turns = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}] * 5000
    body = opening(served) | {"messages": turns}
    assert "10,000 messages are too many" in served.refused(400, "too_many_messages", json=body)


def test_other_names_and_origins(served):
    get = {"method": "GET", "url": "/v1/models"}
    assert "not asked under that name" in served.refused(403, "host", **get, headers={"host": "evil.example"})
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert served.refused(403, "origin", **get, headers={"origin": origin})
    for headers in ({"origin": served.base_url}, {"host": "localhost:1"}, {"host": "[::1]:8000"}):
        assert served.client.get("/v1/models", headers=headers).status_code == 200
    answer = served.client.options("/v1/models", headers={"origin": served.base_url})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_health_and_metrics(served):
    assert served.client.get("/health").json() == {"status": "ok"}
    before = served.metrics()
    served.chat(model=ARM)
    served.refused(400, "invalid_json", content=b"{")
    after = served.metrics()

    def grown(name):
        return after.get(name, 0) - before.get(name, 0)

    assert grown(f'emodistill_replies_total{{arm="{ARM}"}}') == 1
    assert grown('emodistill_refusals_total{code="invalid_json"}') == 1
    assert grown('emodistill_requests_total{route="/v1/chat/completions",status="200"}') == 1
    assert grown("emodistill_batch_size_count") == grown("emodistill_reply_seconds_count") == 1
    assert after["emodistill_queue_length"] == 0
    assert after['emodistill_step_seconds_bucket{le="+Inf"}'] == after["emodistill_step_seconds_count"]


def test_a_token_is_asked_for(run):
    with serving(run, token=TOKEN) as served:
        assert served.client.get("/health").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Bearer \u00e9".encode()},
            {"authorization": TOKEN},
        ):
            assert served.refused(401, "invalid_api_key", json=opening(served), headers=headers)
        for path in ("/v1/models", "/metrics", "/api/run", "/api/scenarios", "/nothing"):
            assert served.client.get(path).status_code == 401
        for scheme in ("Bearer", "bearer", "BEARER"):
            allowed = {"authorization": f"{scheme} {TOKEN}", "host": "any.name.example"}
            assert served.client.post("/v1/chat/completions", json=opening(served), headers=allowed).status_code == 200


def test_nobody_else_is_served_without_a_token():
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org"):
        with pytest.raises(UserError, match="EMODISTILL_TOKEN"):
            check_exposed(host, None)
        check_exposed(host, TOKEN)
    check_exposed("127.0.0.1", None)


def test_limits_below_one_are_refused():
    for wrong in (0, "abc"):
        with pytest.raises(UserError, match=f"per_minute={wrong}: a number of at least 1, or null for no limit"):
            Gate(None, None, wrong)
    for batch, queue, named in ((0, 2, "batch=0"), (2, 0, "queue=0"), ("a", 2, "batch=a")):
        with pytest.raises(UserError, match=f"{named}: a whole number of at least 1"):
            Lockstep({}, {}, batch, queue, 0.0)
    with pytest.raises(UserError, match="gather_s=abc: a number of at least 0"):
        Lockstep({}, {}, 2, 2, "abc")
    for wrong in ({"open": 0}, {"timeout_s": "abc"}, {"body_bytes": 1.5}):
        ((key, value),) = wrong.items()
        with pytest.raises(UserError, match=f"limits.{key}={value}: a"):
            Limits(**wrong)


def test_names_of_hosts_are_compared_without_case(run):
    with serving(run, "hosts=[Box.Example.org]") as served:
        for host, status in (("box.example.org", 200), ("BOX.example.org:8000", 200), ("elsewhere.org", 403)):
            assert served.client.get("/v1/models", headers={"host": host}).status_code == status


def test_too_many_requests(run):
    with serving(run, "per_minute=3") as served:
        for _ in range(3):
            assert served.client.post("/v1/chat/completions", json=opening(served)).status_code == 200
        answer = served.client.post("/v1/chat/completions", json=opening(served))
        assert answer.status_code == 429 and answer.json()["error"]["code"] == "rate_limit"
        assert 15 <= int(answer.headers["retry-after"]) <= 20
        elsewhere = {"x-forwarded-for": "192.0.2.7"}
        assert served.refused(429, "rate_limit", json=opening(served), headers=elsewhere)
        assert served.client.get("/v1/models").status_code == 200


def ask(served, seed, status=200):
    answer = served.client.post("/v1/chat/completions", json=opening(served, seed))
    assert answer.status_code == status, answer.text
    return answer


def test_who_waits_is_answered_together(served, run):
    alone = Negotiator.load(run, ARM)
    scenario = served.service.run.scenarios[served.scenario]
    before = served.metrics()
    with ThreadPoolExecutor(48) as clients:
        with served.busy():
            asked = [clients.submit(ask, served, seed) for seed in range(40)]
            other = clients.submit(served.chat, model="phrasebook_vanilla")
            served.wait_until(41)
        for seed, answer in enumerate(asked):
            said = answer.result().json()["choices"][0]["message"]["content"]
            assert said == alone.open(scenario, seed=seed).reply().words
        assert other.result()["model"] == "phrasebook_vanilla"
    after = served.metrics()
    steps = after["emodistill_batch_size_count"] - before["emodistill_batch_size_count"]
    assert steps == 3  # 32 of the arm, the other 8 of it, and the other arm


def test_a_full_queue(run):
    with serving(run, "queue=2") as served, ThreadPoolExecutor(2) as clients, served.busy():
        waiting = [clients.submit(ask, served, seed) for seed in range(2)]
        served.wait_until(2)
        answer = ask(served, 3, 429)
        assert answer.json()["error"]["code"] == "queue_full" and int(answer.headers["retry-after"]) >= 1
    assert [one.result().status_code for one in waiting] == [200, 200]


def test_a_client_that_waits_for_too_many(run):
    with serving(run, "limits.open=1") as served, ThreadPoolExecutor(1) as clients:
        with served.busy():
            first = clients.submit(ask, served, 0)
            served.wait_until(1)
            assert ask(served, 1, 429).json()["error"]["code"] == "too_many_open"
        assert first.result().status_code == 200
        ask(served, 1)


def test_a_reply_that_takes_too_long_costs_no_step(run):
    with serving(run, "limits.timeout_s=0.2") as served:
        with served.busy():
            assert ask(served, 0, 504).json()["error"]["code"] == "timeout"
        ask(served, 1)
        assert served.metrics()["emodistill_batch_size_sum"] == 1


def test_a_client_that_vanishes_costs_no_step(run):
    with serving(run) as served:
        with served.busy():
            for seed in range(5):
                vanish(served, seed)
            assert served.service.metrics.vanished == 5
        ask(served, 9)
        assert served.metrics()["emodistill_batch_size_sum"] == 1 and not served.service.open


def vanish(served, seed):
    """Ask, and leave as soon as the request is in the queue."""
    request = served.client.build_request("POST", "/v1/chat/completions", json=opening(served, seed))
    lines = ["POST /v1/chat/completions HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    with socket.create_connection((request.url.host, request.url.port)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + request.content)
        wait_for(lambda: served.service.open)
    wait_for(lambda: not served.service.open)


def test_half_a_request_keeps_nobody_waiting(served):
    whole = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{"
    halves = []
    for half in (whole[:20], whole):
        connection = socket.create_connection((served.client.base_url.host, served.client.base_url.port))
        connection.sendall(half)
        halves.append(connection)
    ask(served, 0)
    for connection in halves:
        connection.close()
    ask(served, 1)


def test_what_runs_is_finished_when_the_server_stops(run):
    with FaultyServer(lambda body: "I could pay in full within 30 days.", latency_s=0.5) as model:
        endpoint = [f"endpoint.base_url={model.base_url}", "endpoint.model=slow", "arms=[endpoint_vanilla]"]
        with serving(run, *endpoint) as served, ThreadPoolExecutor(2) as clients:
            running = clients.submit(served.chat, model="endpoint_vanilla")
            wait_for(lambda: model.running)
            waiting = clients.submit(served.chat, model="counterparty", messages=HELLO, status=503)
            served.wait_until(1)
            served.server.loop.call_soon_threadsafe(served.service.lockstep.stop)
            assert waiting.result()["error"]["code"] == "stopping"
            assert "30 days" in running.result()["choices"][0]["message"]["content"]


def test_what_its_clients_cannot_mend_is_no_mistake_of_theirs(run, caplog):
    with FaultyServer(script=["401"]) as model:
        endpoint = [f"endpoint.base_url={model.base_url}", "endpoint.model=closed", "arms=[endpoint_vanilla]"]
        with serving(run, *endpoint) as served:
            body = opening(served) | {"model": "endpoint_vanilla"}
            message = served.refused(500, "agent_failed", json=body)
            assert message == "the agent 'endpoint_vanilla' cannot answer now; the server's log says why"
            assert "endpoint_vanilla cannot answer: closed" in caplog.text and "401" in caplog.text
            assert served.client.post("/v1/chat/completions", json=body).status_code == 200


def test_a_call_that_waits_for_its_turn_when_the_server_stops_is_refused(run):
    with serving(run) as served:
        with served.busy():
            waiting = served.on_loop(served.service.lockstep.call(str))
            wait_for(lambda: served.service.lockstep._turn._waiters)
            served.server.loop.call_soon_threadsafe(served.service.lockstep.stop)
            wait_for(lambda: served.service.lockstep.stopping)
        with pytest.raises(Refusal, match="the server stops"):
            waiting.result(10)


def test_stopping_refuses_who_waits(run):
    with serving(run) as served, ThreadPoolExecutor(2) as clients, served.busy():
        waiting = [clients.submit(ask, served, seed, 503) for seed in range(2)]
        served.wait_until(2)
        served.server.loop.call_soon_threadsafe(served.service.lockstep.stop)
        refused = [one.result() for one in waiting]
        assert {one.json()["error"]["code"] for one in refused} == {"stopping"}
        assert all(int(one.headers["retry-after"]) > 0 for one in refused)
        ask(served, 3, 503)
        assert served.client.get("/health").status_code == 503
