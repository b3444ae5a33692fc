"""What a token costs, and that money cannot be limited where nobody knows."""

import math

import pytest

from emodistill.errors import UserError
from emodistill.language_models.budget import Price, Spending, currency, price_of
from emodistill.language_models.client import Endpoint


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
    assert math.isclose(Price(input=0.15, output=0.6).of(2_000_000, 500_000), 0.6)
