"""The expression policy: how an episode becomes a chat, how it is scored, how it speaks."""
