"""From the hidden states of a model to its logits: the output layer, and what some families do after it.

Cohere multiplies its logits by a factor, Granite divides them, Gemma 2 bounds them softly with a tanh. A temperature, a
log-probability and a gradient all depend on it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from emodistill.errors import UserError

_SIMPLE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "SmolLM3ForCausalLM")
_FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
_DIVISORS = ("logits_scaling",)  # Granite
_CLOSE = 0.02  # of the largest logit: more than rounding in bfloat16, far less than a forgotten factor


class LogitRule(NamedTuple):
    """What happens to the products of the output layer: times `scale`, then bounded softly by `cap`."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: Any) -> "LogitRule":
        """The rule of a transformers model, by its configuration."""
        config = model.config.get_text_config()
        scale = 1.0
        for name in _FACTORS:
            scale *= float(getattr(config, name, None) or 1.0)
        for name in _DIVISORS:
            scale /= float(getattr(config, name, None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return cls(scale, None if cap is None else float(cap))

    def __call__(self, products: Tensor) -> Tensor:
        """Logits, of any shape."""
        scaled = products if self.scale == 1 else products * self.scale
        return scaled if self.cap is None else self.cap * (scaled / self.cap).tanh()

    def slope(self, logits: Tensor) -> Tensor:
        """Derivative of the logits with respect to the products, at these logits."""
        if self.cap is None:
            return torch.full_like(logits, self.scale)
        return self.scale * (1 - (logits / self.cap).square())


PLAIN = LogitRule()


@torch.no_grad()
def check_logits(model: Any, name: str) -> None:
    """Compare the logits of a model with those that its hidden states, output layer and `LogitRule` give.

    Args:
        name: of the model, for the error.

    Raises:
        UserError: if they differ: the model does something else, and log-probabilities would be wrong.
    """
    if type(model).__name__ in _SIMPLE and LogitRule.of(model) == PLAIN:
        return  # known to do nothing, and looked at every time a run begins
    if model.base_model is model:
        raise UserError(f"model={name}: {type(model).__name__} runs its layers only with its output; choose another")
    ids = torch.arange(1, 4, device=model.device)[None]
    exact = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours = LogitRule.of(model)(model.get_output_embeddings()(hidden).float())
    if (ours - exact).abs().max() > _CLOSE * exact.abs().max():
        raise UserError(
            f"model={name}: {type(model).__name__} changes its logits in a way that is not supported; choose another"
        )
