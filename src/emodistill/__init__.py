"""EmoDistill: small language models that use emotion strategically in negotiation, trained from offline dialogues.

    from emodistill import Negotiator

It is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.negotiator import Conversation, Message, Negotiator, Reply

__version__ = "0.2.0.dev0"
__all__ = ["Conversation", "Message", "Negotiator", "Reply"]

__getattr__ = lazy_attributes(__name__, {"negotiator": __all__})
