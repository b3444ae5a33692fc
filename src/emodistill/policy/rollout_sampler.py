"""Samples replies from the policy while it is trained: from a plain copy with the adapter merged in.

A forward pass through LoRA on 4-bit weights costs twice that of the same model merged in bfloat16, and sampling is most
of the time of a JPO step. Writing the merged weights again after every update is cheap beside it, so samples always
come from the policy as it is.
"""

from collections.abc import Sequence
from typing import Any

from emodistill.language_models.local import dtype_of
from emodistill.policy.chat import ChatFormat
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.generation import ChatGenerator


class RolloutSampler:
    """Draws replies with `ChatGenerator` from a merged copy of an `ExpressionPolicy`."""

    def __init__(
        self,
        chat_format: ChatFormat,
        dtype: str,
        temperature: float,
        top_k: int | None,
        max_new_tokens: int,
        max_batch: int,
    ) -> None:
        """
        Args:
            dtype: of the merged copy; `bfloat16` is fast where the hardware has it, `float32` exact, see `dtype_of`.
            temperature, top_k, max_new_tokens, max_batch: see `ChatGenerator`.
        """
        self.chat_format, self.dtype = chat_format, dtype_of(dtype)
        self.temperature, self.top_k = temperature, top_k
        self.max_new_tokens, self.max_batch = max_new_tokens, max_batch
        self._model: Any = None
        self._generator: ChatGenerator | None = None

    def another(self) -> "RolloutSampler":
        """One with the same settings and no model yet."""
        settings = (self.temperature, self.top_k, self.max_new_tokens, self.max_batch)
        return RolloutSampler(self.chat_format, str(self.dtype).removeprefix("torch."), *settings)

    def refresh(self, policy: ExpressionPolicy) -> None:
        """Take over the policy's weights; the first time, make the copy."""
        if self._generator is not None:
            policy.merge_into(self._model)
            return
        self._model = policy.merged(self.dtype).eval()
        self._generator = ChatGenerator(
            self._model,
            self.chat_format.tokenizer,
            self.temperature,
            self.top_k,
            self.max_new_tokens,
            self.max_batch,
            stop_ids=self.chat_format.end_of_turn[:1],
        )

    def sample(self, contexts: Sequence[Sequence[int]], count: int, seed: int) -> list[list[list[int]]]:
        """`count` replies to every context, as token ids with their end, from the weights of the last `refresh`."""
        return self.generator.sample(contexts, count, seed)

    @property
    def generator(self) -> ChatGenerator:
        """What speaks with the weights of the last `refresh`."""
        if self._generator is None:
            raise ValueError("RolloutSampler: call refresh first")
        return self._generator

    def text(self, reply: list[int]) -> str:
        """The words of a reply."""
        return self.chat_format.text(reply)
