"""Loads the frozen base of an expression policy, in 4 bits where asked.

Quantised through transformers: Lightning's precision plugin would quantise the adapters too, and runs on CUDA only.
"""

from typing import Any

import bitsandbytes as bnb
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from emodistill.errors import UserError
from emodistill.language_models.local import dtype_of, load_model, model_folder, without_bars

_SCALED_LOGITS = ("logit_scale", "logits_scaling", "final_logit_softcapping")


def load_base(base_model: str, four_bit: bool, compute_dtype: str) -> Any:
    """A frozen causal language model to put adapters on, in NF4 with double quantisation or in `compute_dtype`.

    Raises:
        UserError: if the model is not to be had or computes its logits in a way that `policy.tokens` does not, or the
            dtype is unknown.
    """
    dtype = dtype_of(compute_dtype)
    if dtype == torch.float16:
        raise UserError(f"compute_dtype={compute_dtype}: choose auto, float32 or bfloat16")
    if not four_bit:
        base = load_model(base_model, dtype)
    else:
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        folder = model_folder(base_model)
        with without_bars():
            base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation, dtype=dtype)
    scaled = [name for name in _SCALED_LOGITS if getattr(base.config, name, None) not in (None, 1, 1.0)]
    if scaled:
        raise UserError(
            f"model={base_model}: rescales its logits ({scaled[0]}), which is not supported; choose another"
        )
    for module in base.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False  # bitsandbytes 0.50: its packed form has no gradient
    return base
