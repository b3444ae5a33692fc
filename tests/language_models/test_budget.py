"""The budget is never exceeded, stops in time, can be raised, and survives the process."""

import math
import time
from pathlib import Path

import pytest
from endpoints import PRICE, ask, endpoint, total, words
from faulty_server import FaultyServer

from emodistill.errors import UserError
from emodistill.language_models.budget import Price, Spending, UsageTotals, billed, currency, price_of
from emodistill.language_models.client import Endpoint, Traffic
from emodistill.language_models.completion import Failure, Reply


@pytest.mark.parametrize("budget", [{"max_tokens": 1000}, {"max_cost": 0.5}])
def test_a_budget_is_used_up_but_not_exceeded_and_can_be_raised(file, budget):
    requests = [ask(f"{number}", max_tokens=10) for number in range(200)]
    with FaultyServer(words, latency_s=0.01) as server:
        with endpoint(
            server, price=PRICE, spending=Spending(file, **budget), traffic=Traffic(concurrency=16)
        ) as client:
            answers = client.complete(requests)
        refused = [answer for answer in answers if isinstance(answer, Failure)]
        assert {answer.kind for answer in refused} == {"budget"} and 0 < len(refused) < 200
        assert all(next(iter(budget)) in answer.reason and answer.usage.attempts == 0 for answer in refused)
        spent = total(file)
        assert spent.prompt_tokens + spent.completion_tokens == server.billed_tokens
        (name, limit), room = next(iter(budget.items())), {"max_tokens": 120, "max_cost": 0.011}
        reached = {"max_tokens": spent.most_tokens, "max_cost": spent.most_cost}[name]
        assert limit - room[name] < reached <= limit  # no room for one more at its upper bound

        raised = Spending(file, **{name: 100 * limit})
        left = [request for request, answer in zip(requests, answers, strict=True) if isinstance(answer, Failure)]
        with endpoint(server, price=PRICE, spending=raised) as client:
            assert all(isinstance(answer, Reply) for answer in client.complete(left))
        assert server.calls == 200 and total(file).calls == 200


def test_money_in_flight_counts():
    """Thirty-two calls at a time may together come to more than is left, though none of them would alone."""
    with FaultyServer(words, latency_s=0.1) as server:
        spending = Spending(max_tokens=400)
        with endpoint(server, spending=spending, traffic=Traffic(concurrency=32)) as client:
            client.complete([ask(f"{number}", max_tokens=10) for number in range(32)])
            assert spending.of(client.name).most_tokens <= 400
        assert server.calls > 1 and server.most_at_once <= 400 // 90


def test_nothing_is_asked_on_a_budget_of_nothing():
    with FaultyServer() as server, endpoint(server, spending=Spending(max_tokens=0)) as client:
        assert [answer.kind for answer in client.complete([ask(), ask()])] == ["budget"] * 2 and server.calls == 0


def test_endpoints_with_one_file_spend_from_one_purse(file):
    with FaultyServer(words) as judge, FaultyServer(words) as speaker:
        with endpoint(judge, spending=Spending(file, max_tokens=500)) as client:
            client.complete([ask(f"{number}") for number in range(100)])
        with endpoint(speaker, spending=Spending(file, max_tokens=500)) as client:
            assert client.complete([ask()])[0].kind == "budget" and speaker.calls == 0


def test_calls_without_a_bill_count_with_their_bound():
    spending = Spending(max_tokens=1000)
    with FaultyServer(script=["truncated"] * 100) as server, endpoint(server, spending=spending) as client:
        answers = client.complete([ask(f"{number}") for number in range(100)])
        tally = spending.of(client.name)
        assert tally.prompt_tokens == tally.completion_tokens == 0 and tally.unmetered_calls == server.calls
        assert server.billed_tokens <= tally.unmetered_tokens <= 1000
        assert {answer.kind for answer in answers} == {"malformed", "budget"}


def test_a_call_that_was_turned_away_costs_nothing(file):
    with (
        FaultyServer(script=["401", "400", "quota"]) as server,
        endpoint(server, spending=Spending(file), traffic=Traffic(concurrency=1)) as client,
    ):
        client.complete([ask(f"{number}") for number in range(3)])
    assert total(file) == UsageTotals(calls=3)


def test_an_abandoned_call_is_counted_as_one_without_a_bill(file):
    def stop(index, answer):
        time.sleep(0.2)  # the next call is under way
        raise KeyboardInterrupt

    with (
        FaultyServer(script=[None, "hang"], hang_s=5.0) as server,
        endpoint(server, spending=Spending(file), traffic=Traffic(concurrency=1)) as client,
        pytest.raises(KeyboardInterrupt),
    ):
        client.complete([ask("one"), ask("two"), ask("three")], stop)
    assert server.calls == 2
    assert total(file).unmetered_calls == server.calls - 1


@pytest.mark.parametrize("given", [{"max_cost": -1.0}, {"max_tokens": -1}])
def test_negative_budgets_are_refused(given):
    with pytest.raises(UserError, match=next(iter(given))):
        Spending(**given)


def test_a_run_ends_with_what_it_cost(file, capsys):
    with billed(Path(file)):
        pass
    assert capsys.readouterr().out == ""
    with FaultyServer(words, script=[None, "truncated"]) as server:
        with (
            endpoint(server, price=PRICE, spending=Spending(file), traffic=Traffic(concurrency=1)) as client,
            billed(Path(file)),
        ):
            client.complete([ask("one"), ask("two")])
        shown = capsys.readouterr().out
        assert f"m at {server.base_url}: 2 calls, 1 tokens read, 10 written, USD 0.0100" in shown
        assert "1 of them without a bill" in shown
        with (
            pytest.raises(ValueError),
            endpoint(server, price=PRICE, spending=Spending(file)) as client,
            billed(Path(file)),
        ):
            client.complete([ask("three")])
            raise ValueError  # what it cost is said all the same
        shown = capsys.readouterr().out
        assert "1 calls, 1 tokens read, 10 written, USD 0.0100" in shown and "3 calls" in shown


def test_money_cannot_be_budgeted_without_a_price():
    with pytest.raises(UserError, match="price of my-model is unknown"):
        Endpoint("http://127.0.0.1:1/v1", "my-model", spending=Spending(max_cost=1.0))
    Endpoint(
        "http://127.0.0.1:1/v1", "my-model", spending=Spending(max_cost=1.0), price={"input": 1.0, "output": 1000.0}
    )


def test_prices():
    assert currency() == "USD"
    assert price_of("gpt-4o-mini") == price_of("gpt-4o-mini-2024-07-18") == Price(input=0.15, output=0.6)
    assert price_of("no-such-model") is None and price_of("gpt-4o-mini-preview") is None
    assert price_of("gpt-4o-mini", {"input": 3, "output": 4}) == Price(input=3.0, output=4.0)
    with pytest.raises(UserError, match=r"price .*: there is no key cached"):
        price_of("gpt-4o-mini", {"input": 3, "output": 4, "cached": 1})
    assert math.isclose(Price(input=0.15, output=0.6).of(2_000_000, 500_000), 0.6)
