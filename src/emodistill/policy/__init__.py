"""The expression policy: how an episode becomes a chat, how replies are scored and sampled, who speaks with it.

A name is imported from its module when it is first asked for, so that who speaks through an endpoint loads no PyTorch.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.policy.agents import ChatSpeaker
    from emodistill.policy.chat_backends import (
        ChatBackend,
        ChatBackendSpec,
        EndpointChatBackend,
        EndpointModel,
        LocalChatBackend,
        LocalModel,
    )
    from emodistill.policy.chat_format import ChatFormat
    from emodistill.policy.expression_policy import ExpressionPolicy
    from emodistill.policy.generation import ChatGenerator, RolloutSampler, Session
    from emodistill.policy.token_batches import Chats, TokenLogprobs, collate_chats, pack_replies

_MODULES = {
    "agents": ("ChatSpeaker",),
    "chat_backends": (
        "ChatBackend",
        "ChatBackendSpec",
        "EndpointChatBackend",
        "EndpointModel",
        "LocalChatBackend",
        "LocalModel",
    ),
    "chat_format": ("ChatFormat",),
    "expression_policy": ("ExpressionPolicy",),
    "generation": ("ChatGenerator", "RolloutSampler", "Session"),
    "token_batches": ("Chats", "TokenLogprobs", "collate_chats", "pack_replies"),
}

__all__ = [
    "ChatBackend",
    "ChatBackendSpec",
    "ChatFormat",
    "ChatGenerator",
    "ChatSpeaker",
    "Chats",
    "EndpointChatBackend",
    "EndpointModel",
    "ExpressionPolicy",
    "LocalChatBackend",
    "LocalModel",
    "RolloutSampler",
    "Session",
    "TokenLogprobs",
    "collate_chats",
    "pack_replies",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
