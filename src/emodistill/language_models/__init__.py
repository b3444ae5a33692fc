"""Language models: on this machine (the embedded one, folders, hub ids) and behind OpenAI-compatible endpoints.

    from emodistill.language_models import CompletionRequest, Endpoint, Message, Traffic, load_model, load_tokenizer

A name is imported from its module when it is first asked for, so that what needs no model does not load PyTorch.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.language_models.budget import Spending
    from emodistill.language_models.client import BreakerPolicy, Dialect, Endpoint, RetryPolicy, Timeouts, Traffic
    from emodistill.language_models.completion import Completer, CompletionRequest, Failure, Message, Reply, Usage
    from emodistill.language_models.embedded import embedded_model
    from emodistill.language_models.local import fingerprint, load_model, load_tokenizer

_MODULES = {
    "budget": ("Spending",),
    "client": ("BreakerPolicy", "Dialect", "Endpoint", "RetryPolicy", "Timeouts", "Traffic"),
    "completion": ("Completer", "CompletionRequest", "Failure", "Message", "Reply", "Usage"),
    "embedded": ("embedded_model",),
    "local": ("fingerprint", "load_model", "load_tokenizer"),
}

__all__ = [
    "BreakerPolicy",
    "Completer",
    "CompletionRequest",
    "Dialect",
    "Endpoint",
    "Failure",
    "Message",
    "Reply",
    "RetryPolicy",
    "Spending",
    "Timeouts",
    "Traffic",
    "Usage",
    "embedded_model",
    "fingerprint",
    "load_model",
    "load_tokenizer",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
