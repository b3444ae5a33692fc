"""Endpoints and requests for tests: short waits before a retry, and time-outs that a busy machine does not reach."""

from pathlib import Path

from emodistill.language_models.budget import UsageTotals, read_usage
from emodistill.language_models.client import Endpoint, RetryPolicy, Timeouts, Traffic
from emodistill.language_models.completion import CompletionRequest, Message

QUICK = RetryPolicy(base_s=0.01, cap_s=0.05)
PATIENT = Timeouts(connect_s=20.0, first_byte_s=20.0, whole_s=60.0)
HASTY = Timeouts(connect_s=20.0, first_byte_s=1.0, whole_s=60.0)  # for servers that hang
PRICE = {"input": 1.0, "output": 1000.0}


def ask(words="hello", max_tokens=10, **settings):
    return CompletionRequest((Message("user", words),), max_tokens, **settings)


def endpoint(server, **settings):
    """An endpoint at a `FaultyServer`."""
    given = {
        "model": "m",
        "retries": QUICK,
        "timeouts": PATIENT,
        "traffic": Traffic(concurrency=8),
    }
    return Endpoint(**({"base_url": server.base_url} | given | settings))


def words(body):
    """Ten words, whatever was asked."""
    return "word " * 10


def total(path):
    """What an account file adds up to."""
    return sum(read_usage(Path(path)).values(), UsageTotals())
