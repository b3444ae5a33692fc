"""The expression policy puts a chosen emotion into words: a frozen language model in 4 bits with LoRA adapters.

Its state dict is the trained adapter alone, loaded strictly: the frozen base is a function of `base_model` and comes
from there, and a checkpoint with another LoRA layout is refused. Only response tokens get logits.

Adapters are saved in PEFT's own format, which any PEFT tool reads. A note beside it, `emodistill.json`, names the base
model and the vocabulary with their fingerprints, and the base's precision. An adapter made for others is refused: its
weights may fit the shapes, and would then produce nonsense without an error.

LoRA on a base in NF4 with double quantisation is QLoRA (Dettmers et al. 2023, arXiv 2305.14314).
"""

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from emodistill.language_models.four_bit import bnb  # before PEFT, which imports bitsandbytes with the compiler

# isort: split
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.files import replacing
from emodistill.language_models.attention_masks import mask_for, takes_masks, window_of
from emodistill.language_models.local import (
    chat_fingerprint,
    device_of,
    dtype_of,
    fingerprint,
    load_model,
    load_tokenizer,
    public_name,
)
from emodistill.language_models.logits import LogitRule, check_logits
from emodistill.language_models.quantised import load_quantised
from emodistill.negotiation.prompts import Emotions
from emodistill.policy.adapter_files import read_identity, refuse_foreign
from emodistill.policy.attention import NO_MASK, lay_out, use_grouped_attention
from emodistill.policy.chat_template import find_form
from emodistill.policy.lean_layers import use_lean_layers
from emodistill.policy.lora_linear import delta_of, fuse_lora_layers, unfit_adapter
from emodistill.policy.sharding import quant_state_of, shard, whole
from emodistill.policy.token_batches import (
    Chats,
    TokenLogprobs,
    frozen_head_logprobs,
    packed_mask,
    response_positions,
    unpack,
)
from emodistill.runs import ADAPTER_CONFIG, ADAPTER_NOTE, ADAPTER_WEIGHTS, weights_hash

logger = logging.getLogger(__name__)

POLICY, REFERENCE = "policy", "reference"  # names of the adapters in the PEFT model
UNPACKED_ROWS = 8  # at a time, where replies to one context cannot share a row


class ExpressionPolicy(nn.Module):
    """A frozen causal language model whose only trainable weights are the `policy` adapter.

    Attributes:
        identity: base model and vocabulary with their fingerprints, and whether the base is in NF4; kept beside every
            adapter and in checkpoints.
        start: fingerprint of the adapter that training starts from, `base` without one.
        sharded: whether its weights are spread over several devices.
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
        emotions: Emotions = "prompted",
        device: str = "auto",
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
            device: where it will compute, see `device_of`. It decides the dtype `auto`; the trainer moves the policy.

        Raises:
            UserError: if the model or its LoRA layers are unfit, or the adapter is damaged or belongs to another
                model, vocabulary or precision.
        """
        super().__init__()
        words = load_vocabulary(vocabulary)
        self.base_model = base_model
        self.identity: dict[str, Any] = {
            "base_model": base_model,
            "fingerprint": fingerprint(base_model),
            "chat_fingerprint": chat_fingerprint(base_model),
            "vocabulary": words.name,
            "vocabulary_fingerprint": words.fingerprint,
            "four_bit": four_bit,
        }
        if emotions != "prompted":
            self.identity["emotions"] = emotions
        config = LoraConfig(task_type="CAUSAL_LM", **lora) if init_adapter is None else self._given_config(init_adapter)
        config.lora_dropout = 0.0 if reference else config.lora_dropout
        base = load_base(base_model, four_bit, compute_dtype, device)
        if gradient_checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": False})
        try:
            self.model = get_peft_model(base, config, adapter_name=POLICY)
        except ValueError as error:
            raise UserError(
                f"model={base_model}: PEFT puts no adapters on these layers ({error}); name others in "
                "policy.lora.target_modules"
            ) from error
        if (odd := unfit_adapter(self.model)) is not None:
            raise UserError(
                f"policy.lora: the adapter on {odd} would be left out of what is learnt or spoken; give plain LoRA "
                "(no use_dora, no lora_bias) on linear layers other than the output layer"
            )
        self.start = weights_hash(Path(init_adapter)) if init_adapter else "base"
        self.sharded = False
        self.has_reference_adapter = reference and init_adapter is not None
        if init_adapter:
            self._start_from(Path(init_adapter), config)
        fuse_lora_layers(self.model)
        self.takes_masks, self.logit_rule = takes_masks(base), LogitRule.of(base)
        if not self.takes_masks:
            _say_once(base_model)
        self.end_to_end = device_of(device).type == "cpu" and use_grouped_attention(base)
        if device_of(device).type == "cpu":
            use_lean_layers(base)
        self.register_state_dict_post_hook(_keep_trainable)  # type: ignore[no-untyped-call]  # torch 2.13
        self.register_load_state_dict_post_hook(_excuse_frozen)  # type: ignore[no-untyped-call]  # torch 2.13
        self.train()  # from_pretrained returns an eval-mode model, and Lightning keeps the mode it finds

    def _given_config(self, folder: str) -> LoraConfig:
        refuse_foreign(read_identity(Path(folder)), self.identity, folder)
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

    def shard(self, mesh: Any) -> None:
        """Spread all weights over the devices of a mesh, see `policy.sharding`.

        From then on every device has to call `forward`, `merged`, `merge_into` and `save_adapter` as often as others.

        Raises:
            UserError: if the model cannot be spread.
        """
        if not self.takes_masks:
            raise UserError(
                f"model={self.base_model}: replies to one context cannot share a row with this model, so the devices "
                "would not compute equally often; use trainer.strategy=ddp"
            )
        layers: Any = [module for module in self.modules() if hasattr(module, "keeps_unpacked")]
        for layer in layers:
            layer.keeps_unpacked = False  # a whole layer would stay in memory
        shard(self, self.model.get_base_model(), mesh)
        self.sharded = True

    def forward(self, batch: Chats) -> TokenLogprobs:
        """Log-probability of every response token, given all tokens that it attends to."""
        if batch.packing is not None and not self.takes_masks:
            return self._unpacked(batch)
        causal = self.model.get_base_model()
        rows, columns, before = response_positions(batch)
        if self.end_to_end:
            stream = lay_out(batch, causal.dtype, window_of(causal))
            hidden = causal.base_model(
                input_ids=stream.input_ids,
                attention_mask=NO_MASK,
                position_ids=stream.position_ids,
                use_cache=False,
                blocks=stream.blocks,
                near_blocks=stream.near_blocks,
            ).last_hidden_state[0, stream.offsets[rows] + before]
        else:
            mask = positions = None  # without a mask, no token attends to the padding on its right
            if batch.packing is not None:
                positions = batch.packing.position_ids
                mask = mask_for(causal, packed_mask(batch), positions, positions)
            hidden = causal.base_model(
                input_ids=batch.input_ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state[rows, before]
        head, targets = causal.get_output_embeddings(), batch.input_ids[rows, columns]
        logprobs = frozen_head_logprobs(hidden, head, targets, self.logit_rule)
        if self.sharded:
            logprobs = logprobs.clone()  # FSDP2 puts a hook on what is returned, and warns of a view
        return TokenLogprobs(logprobs, batch.utterance[rows, columns])

    def _unpacked(self, batch: Chats) -> TokenLogprobs:
        """As `forward`, with every reply of packed rows in a row of its own."""
        plain, places = unpack(batch)
        parts = [
            self(Chats(ids, mask, utterance)).logprobs
            for ids, mask, utterance in zip(*(torch.split(field, UNPACKED_ROWS) for field in plain[:3]), strict=True)
        ]
        return TokenLogprobs(torch.cat(parts)[places], batch.utterance[batch.utterance >= 0])

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within this context, `forward` is the frozen reference policy: no gradient, no dropout."""
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

    def save_adapter(self, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the adapter in PEFT's own format with `emodistill.json` beside it, whole or not at all.

        The note also says in which form of the model's chats the adapter was trained, see `find_form`.

        Args:
            state: a state dict of this policy to write in place of its own, with whole tensors.
        """
        form = find_form(load_tokenizer(self.base_model)).note or "as the model's own template writes it"
        own = self.state_dict() if state is None else state
        learned = {name.removeprefix("model."): whole(tensor) for name, tensor in own.items()}
        tensors = self.model.state_dict() | learned
        write_adapter(self.model, POLICY, Path(folder), self.identity | {"chat": form}, tensors)

    def merged(self, dtype: torch.dtype, device: torch.device | None = None) -> Any:
        """A plain transformers model that speaks as this policy: for rollouts, without LoRA or 4-bit arithmetic.

        Args:
            device: where it computes; by default where the policy does.
        """
        model = load_model(self.base_model, dtype, device or self.device)
        self.merge_into(model)
        return model

    @torch.no_grad()
    def merge_into(self, model: nn.Module) -> None:
        """Write base plus adapter into a model that `merged` returned, in place.

        The base is the *dequantised* NF4 weight, not the original one: the adapter was trained on top of it and has
        learned to correct its errors, and samples should come from the policy that the log-probabilities describe.
        """
        base, scratch = self.model.get_base_model(), torch.empty(0)
        for name, parameter in model.named_parameters():
            place, _, leaf = name.rpartition(".")
            module, delta = delta_of(base.get_submodule(place), leaf, POLICY)
            linear = getattr(module, "base_layer", module)
            value = whole(getattr(linear, leaf))
            if delta is not None:
                value = value.float() + delta.float()
            if leaf == "weight" and (state := quant_state_of(linear)) is not None:
                value = unpacked_weight(module, value, state)
            if leaf == "weight" and hasattr(module, "base_layer"):
                if scratch.numel() < value.numel():  # one block for all: new memory costs more than the sums
                    scratch = value.new_empty(value.numel(), dtype=torch.float32)
                down, up = whole(module.lora_A[POLICY].weight), whole(module.lora_B[POLICY].weight)
                merged = scratch[: value.numel()].view(value.shape)
                value = torch.mm(up, down, out=merged).mul_(module.scaling[POLICY]).add_(value)
            parameter.copy_(value)


@cache
def _say_once(model: str) -> None:
    logger.warning(
        "replies to one context cannot share a row with %s: each is read with its context, which takes longer", model
    )


def unpacked_weight(module: nn.Module, weight: Tensor, state: Any) -> Tensor:
    """A weight in NF4 dequantised, (O, I); what the module keeps of it for training, where that is the same."""
    kept: Tensor | None = getattr(module, "unpacked", None)
    if kept is not None and kept.dtype == state.dtype and kept.device == weight.device:
        return kept
    plain: Tensor = bnb.functional.dequantize_4bit(weight.data, state)
    return plain


def _keep_trainable(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, _metadata: dict[str, Any]) -> None:
    """State dict hook: leave out what is frozen, which is the base and the reference."""
    trainable = {prefix + name for name, parameter in module.named_parameters() if parameter.requires_grad}
    for key in [key for key in state_dict if key.startswith(prefix) and key not in trainable]:
        del state_dict[key]


def _excuse_frozen(module: nn.Module, incompatible_keys: Any) -> None:
    """Loading hook: frozen weights are not missing; what the adapter lacks still is."""
    parameters = module.named_parameters(remove_duplicate=False)  # an output layer tied to the embedding has two names
    frozen = tuple(name for name, parameter in parameters if not parameter.requires_grad)
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if not key.endswith(frozen)]


def load_base(base_model: str, four_bit: bool, compute_dtype: str, device: str) -> Any:
    """A causal language model to put adapters on, in NF4 with double quantisation or in `compute_dtype`, on the CPU.

    It is quantised by transformers: Lightning's precision plugin would quantise the adapters too, and needs CUDA.

    Args:
        device: where it will compute, which decides what the dtype `auto` is.

    Raises:
        UserError: if the model is not to be had or computes its logits in a way that `ExpressionPolicy.forward` does
            not, or the dtype is unknown.
    """
    dtype = dtype_of(compute_dtype, device_of(device))
    if dtype == torch.float16:
        raise UserError(f"compute_dtype={compute_dtype}: choose auto, float32 or bfloat16")
    base: Any = load_quantised(base_model, dtype) if four_bit else load_model(base_model, dtype)
    for module in base.modules():
        if Conv1D in (type(module), getattr(module, "source_cls", None)):
            raise UserError(f"model={base_model}: has Conv1D layers, as GPT-2, which are not supported; choose another")
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False  # bitsandbytes 0.50: its packed form has no gradient
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the base is frozen: LoRA's own dropout is the one that is set
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    check_logits(base, base_model)
    return base


def write_adapter(model: Any, name: str, folder: Path, identity: dict[str, Any], state: Mapping[str, Tensor]) -> None:
    """Save one adapter of a PEFT model, whole or not at all; an older one in this place is replaced.

    PEFT's configuration names the base model as it is known elsewhere, not the folder where it lies on this machine.

    Args:
        state: a state dict of the model.
    """
    tensors = get_peft_model_state_dict(model, state, adapter_name=name)
    config = copy.copy(model.peft_config[name])
    config.inference_mode = True
    config.base_model_name_or_path = public_name(identity["base_model"])
    with replacing(folder) as partial:
        partial.mkdir(parents=True)
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial / ADAPTER_WEIGHTS
        )
        config.save_pretrained(str(partial))
        (partial / ADAPTER_NOTE).write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")


def read_lora_config(folder: Path) -> LoraConfig:
    """The LoRA layout of a saved adapter, ready to be trained further."""
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder / ADAPTER_CONFIG} is damaged ({error}); train the stage that writes it again"
        ) from error
    config.inference_mode = False
    config.base_model_name_or_path = None  # a folder may have moved; the fingerprint says whether the model is the same
    return config


def read_adapter(model: Any, name: str, folder: Path) -> None:
    """Load saved weights into one adapter of a PEFT model, strictly.

    Raises:
        UserError: if the file is damaged, or its tensors are not exactly those of the adapter.
    """
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{folder / ADAPTER_WEIGHTS} cannot be read ({error}); train the stage that writes it again"
        ) from error
    own = {key: tensor.shape for key, tensor in get_peft_model_state_dict(model, adapter_name=name).items()}
    theirs = {key: tensor.shape for key, tensor in tensors.items()}
    wrong = sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key))
    if wrong:
        raise UserError(
            f"{folder / ADAPTER_WEIGHTS} does not fit the LoRA layout: {len(wrong)} tensors differ, first {wrong[0]}; "
            "use the LoRA settings it was trained with"
        )
    set_peft_model_state_dict(model, tensors, adapter_name=name)
