"""Endpoints and requests for tests: waits short enough for a test, everything else as it comes."""

from pathlib import Path

from emodistill.language_models.budget import UsageTotals, read_usage
from emodistill.language_models.client import Endpoint, RetryPolicy, Timeouts, Traffic
from emodistill.language_models.completion import CompletionRequest, Message

QUICK = RetryPolicy(base_s=0.01, cap_s=0.05)
PRICE = {"input": 1.0, "output": 1000.0}


def ask(words="hello", max_tokens=10, **settings):
    return CompletionRequest((Message("user", words),), max_tokens, **settings)


def endpoint(server, **settings):
    """An endpoint at a `FaultyServer`."""
    given = {
        "model": "m",
        "retries": QUICK,
        "timeouts": Timeouts(connect_s=1.0, first_byte_s=0.4, whole_s=2.0),
        "traffic": Traffic(concurrency=8),
    }
    return Endpoint(**({"base_url": server.base_url} | given | settings))


def words(body):
    """Ten words, whatever was asked."""
    return "word " * 10


def total(path):
    """What an account file adds up to."""
    return sum(read_usage(Path(path)).values(), UsageTotals())
