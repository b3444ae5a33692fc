"""EmoDistill: small language models that use emotion strategically in negotiation, trained from offline dialogues."""

__version__ = "0.1.0"
