"""The language model that puts a chosen emotion into words: a 4-bit base with LoRA adapters.

Its state dict is the trained adapter alone, loaded strictly: the frozen base is a function of `base_model` and comes
from there, and a checkpoint of another LoRA layout is refused by name. Only tokens of responses get logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.language_models.local import fingerprint, load_model
from emodistill.negotiation.prompts import Emotions
from emodistill.policy.adapters import (
    adapter_fingerprint,
    check_identity,
    read_adapter,
    read_lora_config,
    write_adapter,
)
from emodistill.policy.base_model import load_base
from emodistill.policy.tokens import Chats, TokenLogprobs, frozen_head_logprobs, packed_mask, response_positions

POLICY, REFERENCE = "policy", "reference"


class ExpressionPolicy(nn.Module):
    """A frozen causal language model whose only trainable weights are the `policy` adapter.

    Attributes:
        identity: base model and vocabulary with their fingerprints; kept beside every adapter and in checkpoints.
        start: fingerprint of the adapter that training starts from, `base` without one.
    """

    def __init__(
        self,
        base_model: str,
        lora: dict[str, Any],
        four_bit: bool,
        compute_dtype: str,
        vocabulary: str,
        init_adapter: str | None = None,
        reference: bool = False,
        gradient_checkpointing: bool = False,
        emotions: Emotions = "told",
    ) -> None:
        """
        Args:
            base_model: `embedded`, a folder, or a Hugging Face id.
            lora: arguments of `peft.LoraConfig`; ignored where `init_adapter` brings its own.
            four_bit: hold the base in NF4 with double quantisation; False keeps it in `compute_dtype`.
            compute_dtype: `auto`, `float32` or `bfloat16`, of the base (see `dtype_of`); adapters and log-probabilities
                are always float32.
            vocabulary: name or file of the emotion vocabulary.
            init_adapter: folder of a trained adapter to start from.
            reference: keep a frozen second copy of the start as the reference policy (the base itself where there is no
                `init_adapter`), and switch LoRA dropout off: with dropout the policy would differ from its reference
                before the first update.
            gradient_checkpointing: recompute activations in the backward pass: slower, far less memory.
            emotions: how emotions enter the chats it is trained on, see `ChatFormat`; noted beside every adapter.

        Raises:
            UserError: if the model is unfit, or the adapter is damaged or belongs to another model or vocabulary.
        """
        super().__init__()
        words = load_vocabulary(vocabulary)
        self.base_model = base_model
        self.identity = {
            "base_model": base_model,
            "fingerprint": fingerprint(base_model),
            "vocabulary": words.name,
            "vocabulary_fingerprint": words.fingerprint,
        }
        if emotions != "told":
            self.identity["emotions"] = emotions
        config = LoraConfig(task_type="CAUSAL_LM", **lora) if init_adapter is None else self._given_config(init_adapter)
        config.lora_dropout = 0.0 if reference else config.lora_dropout
        base = load_base(base_model, four_bit, compute_dtype)
        if gradient_checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": False})
        self.model = get_peft_model(base, config, adapter_name=POLICY)
        self.start = adapter_fingerprint(Path(init_adapter)) if init_adapter else "base"
        self.has_reference_adapter = reference and init_adapter is not None
        if init_adapter:
            self._start_from(Path(init_adapter), config)
        self.register_state_dict_post_hook(_keep_trainable)  # type: ignore[no-untyped-call]  # torch 2.13
        self.register_load_state_dict_post_hook(_excuse_frozen)  # type: ignore[no-untyped-call]  # torch 2.13
        self.train()  # from_pretrained returns an eval-mode model, and Lightning keeps the mode it finds

    def _given_config(self, folder: str) -> LoraConfig:
        check_identity(Path(folder), self.identity)
        return read_lora_config(Path(folder))

    def _start_from(self, folder: Path, config: LoraConfig) -> None:
        read_adapter(self.model, POLICY, folder)
        if self.has_reference_adapter:
            self.model.add_adapter(REFERENCE, config)
            read_adapter(self.model, REFERENCE, folder)
            self.model.set_adapter(POLICY)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, batch: Chats) -> TokenLogprobs:
        """Log-probability of every response token, given all tokens it can see."""
        causal = self.model.get_base_model()
        packed = batch.position_ids is not None
        mask = packed_mask(batch) if packed else None  # a causal model never sees padding on the right
        hidden = causal.base_model(
            input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        rows, columns, before = response_positions(batch)
        targets = batch.input_ids[rows, columns]
        logprobs = frozen_head_logprobs(hidden[rows, before], causal.get_output_embeddings(), targets)
        return TokenLogprobs(logprobs, batch.utterance[rows, columns])

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, forward is the frozen reference policy: no gradient, no dropout."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                if self.has_reference_adapter:
                    self.model.set_adapter(REFERENCE, inference_mode=True)
                    yield
                else:
                    with self.model.disable_adapter():
                        yield
        finally:
            if self.has_reference_adapter:
                self.model.set_adapter(POLICY)
            self.train(was_training)

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter in PEFT's own format with `emodistill.json` beside it; whole or not at all."""
        write_adapter(self.model, POLICY, Path(folder), self.identity)

    def load_adapter(self, folder: str | Path) -> None:
        """Take over the weights of a saved adapter.

        Raises:
            UserError: if it is damaged, of another shape, or belongs to another base model or vocabulary.
        """
        check_identity(Path(folder), self.identity)
        read_adapter(self.model, POLICY, Path(folder))

    def merged(self, dtype: torch.dtype) -> Any:
        """A plain transformers model that speaks as this policy: for rollouts, without LoRA or 4-bit arithmetic."""
        model = load_model(self.base_model, dtype).to(self.device)
        self.merge_into(model)
        return model

    @torch.no_grad()
    def merge_into(self, model: nn.Module) -> None:
        """Write base plus adapter into a model that `merged` returned, in place.

        The base is the *dequantised* NF4 weight, not the original one: the adapter was trained on top of it and has
        learnt to make up for its errors, and what is sampled should be what the log-probabilities describe.
        """
        base = self.model.get_base_model()
        for name, parameter in model.named_parameters():
            place, _, leaf = name.rpartition(".")
            module = base.get_submodule(place)
            value = getattr(getattr(module, "base_layer", module), leaf)
            if isinstance(value, bnb.nn.Params4bit):
                value = bnb.functional.dequantize_4bit(value.data, value.quant_state)
            if leaf == "weight" and hasattr(module, "base_layer"):
                value = value.float() + module.get_delta_weight(POLICY).float()
            parameter.copy_(value)


def _keep_trainable(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, _metadata: dict[str, Any]) -> None:
    trainable = {prefix + name for name, parameter in module.named_parameters() if parameter.requires_grad}
    for key in [key for key in state_dict if key.startswith(prefix) and key not in trainable]:
        del state_dict[key]


def _excuse_frozen(module: nn.Module, incompatible_keys: Any) -> None:
    named = module.named_parameters(remove_duplicate=False)  # an output layer tied to the embedding has two names
    frozen = tuple(name for name, parameter in named if not parameter.requires_grad)
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if not key.endswith(frozen)]
