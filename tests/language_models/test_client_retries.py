"""Which calls are made again, after how long, and which never are."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from endpoints import HASTY, QUICK, ask, endpoint
from faulty_server import FaultyServer

from emodistill.errors import UserError
from emodistill.language_models.answers import retry_after_s
from emodistill.language_models.budget import Spending
from emodistill.language_models.client import RetryPolicy
from emodistill.language_models.completion import Failure, Reply

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def answered(script, **settings):
    """The answer to one request and the server that gave it."""
    with FaultyServer(script=script, hang_s=5.0) as server, endpoint(server, **settings) as client:
        (answer,) = client.complete([ask()])
    return answer, server


@pytest.mark.parametrize(
    "fault", ["408", "409", "429", "429_retry_after", "429_date", "500", "502", "503", "504", "529", "reset", "hang"]
)
def test_a_passing_fault_is_tried_again(fault):
    answer, server = answered([fault], **({"timeouts": HASTY} if fault == "hang" else {}))
    assert isinstance(answer, Reply) and server.calls == answer.usage.attempts == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        *(("400", "status"), ("404", "status"), ("413", "status"), ("422", "status"), ("307", "status")),
        *(("401", "authentication"), ("403", "authentication"), ("402", "quota"), ("quota", "quota")),
        *(("truncated", "malformed"), ("invalid_json", "malformed"), ("no_choices", "malformed")),
    ],
)
def test_a_lasting_fault_is_not(fault, kind):
    answer, server = answered([fault])
    assert isinstance(answer, Failure) and answer.kind == kind and answer.reason
    assert server.calls == answer.usage.attempts == 1


@pytest.mark.parametrize(("fault", "kind"), [("429", "status"), ("500", "status"), ("reset", "connection")])
def test_retries_end(fault, kind):
    answer, server = answered([fault] * 20, retries=RetryPolicy(max_retries=3, base_s=0.01))
    assert isinstance(answer, Failure) and answer.kind == kind and "after 4 calls" in answer.reason
    assert server.calls == answer.usage.attempts == 4


def test_a_hanging_server_is_asked_less_often_than_a_failing_one():
    """Each such call costs its whole time-out, and perhaps money."""
    policy = RetryPolicy(max_retries=5, timeout_retries=1, base_s=0.01)
    answer, server = answered(["hang"] * 20, retries=policy, timeouts=HASTY)
    assert answer.kind == "timeout" and server.calls == 2
    answer, server = answered(["hang", "500", "hang", "500"], retries=policy, timeouts=HASTY)
    assert answer.kind == "timeout" and server.calls == 3


def test_no_retries_where_none_are_wanted():
    answer, server = answered(["500"], retries=RetryPolicy(max_retries=0))
    assert isinstance(answer, Failure) and server.calls == 1


@pytest.mark.parametrize("fault", ["429_retry_after", "429_date"])
def test_retry_after_is_waited_for(fault):
    """A date has whole seconds, so of 2 s ahead at least one is left."""
    asked_s = 0.5 if fault == "429_retry_after" else 2.0
    with FaultyServer(script=[fault], retry_after=asked_s) as server, endpoint(server, retries=QUICK) as client:
        assert isinstance(client.complete([ask()])[0], Reply)
    waited = server.log[1].at - server.log[0].at
    assert min(asked_s, 1.0) <= waited < asked_s + 1.0


def test_a_wait_that_is_too_long_is_a_failure_that_says_so():
    with FaultyServer(script=["429_retry_after"], retry_after=3600) as server, endpoint(server) as client:
        (answer,) = client.complete([ask()])
    assert answer.kind == "status" and "3600 s" in answer.reason and server.calls == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("3", 3.0), ("0", 0.0), ("1.5", 1.5), (None, None), ("", None), ("soon", None), ("-1", None), ("nan", None)),
        *(("inf", None), (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0)),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(header, seconds):
    assert retry_after_s(header, NOW) == seconds


def test_waits_are_uniform_below_a_bound_that_doubles_up_to_the_cap():
    policy = RetryPolicy(base_s=1.0, cap_s=8.0)
    for retry, bound in enumerate([1.0, 2.0, 4.0, 8.0, 8.0]):
        waits = [policy.wait_s(retry, None) for _ in range(2000)]
        assert 0.0 <= min(waits) < 0.05 * bound and 0.95 * bound < max(waits) <= bound
        assert sum(waits) / len(waits) == pytest.approx(bound / 2, rel=0.08)
    assert policy.wait_s(10**6, None) <= 8.0


def test_what_a_server_asks_for_is_the_least_that_is_waited():
    policy = RetryPolicy(base_s=1.0, cap_s=8.0)
    waits = [policy.wait_s(3, 5.0) for _ in range(500)]
    assert min(waits) >= 5.0 and max(waits) <= 6.0 and max(waits) - min(waits) > 0.5


def test_negative_settings_are_refused():
    with pytest.raises(UserError, match="max_retries"):
        RetryPolicy(max_retries=-1)


def test_retries_are_paid_from_the_budget_too():
    """Each call of a request needs its own room."""
    spending = Spending(max_tokens=250)
    retries = RetryPolicy(max_retries=9, base_s=0.01)
    with (
        FaultyServer(script=["reset"] * 20) as server,
        endpoint(server, spending=spending, retries=retries) as client,
    ):
        (answer,) = client.complete([ask()])
    assert answer.kind == "budget" and server.calls == answer.usage.attempts == 2
