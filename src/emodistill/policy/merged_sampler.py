"""Samples from the policy as it is now, through a plain copy with the adapter merged in.

Generation through unmerged LoRA on 4-bit weights runs at half the speed of a plain bfloat16 model, so rollouts use a
copy whose weights are the dequantised base plus the adapter. It is refreshed in place.
"""

from typing import Any

import torch

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.language_models.local import DTYPES, load_tokenizer
from emodistill.policy.chat import ChatFormat
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.generation import ChatGenerator


class MergedSampler:
    """Replies of an `ExpressionPolicy`; see `ChatGenerator` for the arguments.

    The log-probabilities that training computes are those of the float32 policy at temperature 1 over the whole
    vocabulary, the samples those of a bfloat16 copy with `top_k`: JPO's ratio is taken to the reference and not to the
    sampling distribution, so the difference does not bias it.
    """

    def __init__(self, temperature: float, top_k: int | None, max_new_tokens: int, max_batch: int, dtype: str) -> None:
        self.settings: dict[str, Any] = {
            "temperature": temperature,
            "top_k": top_k,
            "max_new_tokens": max_new_tokens,
            "max_batch": max_batch,
        }
        self.dtype = DTYPES[dtype]
        self.generator: ChatGenerator | None = None

    def refresh(self, policy: ExpressionPolicy) -> None:
        """Take over the policy's weights."""
        if self.generator is None:
            self.generator = self.generator_of(policy)
        else:
            policy.merge_into(self.generator.model)

    def generator_of(self, policy: ExpressionPolicy) -> ChatGenerator:
        """A generator with its own merged copy of the policy."""
        self.format = ChatFormat(
            load_tokenizer(policy.base_model), load_vocabulary()
        )  # any vocabulary ends its turns alike
        model = policy.merged(self.dtype).eval()
        return ChatGenerator(model, self.format.tokenizer, **self.settings, stop_ids=self.format.end_of_turn[:1])

    def sample(self, contexts: list[list[int]], count: int, seed: int) -> list[list[list[int]]]:
        """`count` replies to every context, as token ids with their end; fixed by weights, contexts and seed."""
        assert self.generator is not None, "refresh comes first"
        with torch.no_grad():
            return self.generator.sample(contexts, count, seed)

    def text(self, reply: list[int]) -> str:
        """The words of a reply."""
        return self.format.text(reply)
