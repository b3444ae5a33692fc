"""Endpoints and requests for tests: waits short enough for a test, everything else as it comes."""

from emodistill.language_models.completion import CompletionRequest, Message
from emodistill.language_models.endpoint import Endpoint
from emodistill.language_models.retries import RetryPolicy
from emodistill.language_models.traffic import Timeouts, Traffic

QUICK = RetryPolicy(base_s=0.01, cap_s=0.05)


def ask(words="hello", max_tokens=10, **settings):
    return CompletionRequest((Message("user", words),), max_tokens, **settings)


def endpoint(server, **settings):
    """An endpoint at a `FaultyServer`."""
    given = {"model": "m", "retries": QUICK, "timeouts": Timeouts(1.0, 0.4, 2.0), "traffic": Traffic(8)}
    return Endpoint(**({"base_url": server.base_url} | given | settings))
