"""Language models in 4 bits: NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314).

To quantise 135M parameters takes ten seconds of processor time on a CPU, to read the result a third of a second. So the
result is kept, in the format of transformers itself:

    <cache>/quantised/<key>/    config.json, model.safetensors, checksums.json

The key is a hash of the model's files, of the settings, and of the versions of the libraries: whatever could give other
bytes is another folder. A folder is written beside its place and renamed, and checked when it is read; a damaged one is
made again. Of two processes at once each quantises, and the first one's folder stays.
"""

import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig

from emodistill.files import cache_dir, exclusive, file_hash, is_whole, replacing, seal
from emodistill.language_models.local import model_folder, read_weights, without_bars
from emodistill.language_models.model_files import refuse_broken

LIBRARIES = ("bitsandbytes", "torch", "transformers")

logger = logging.getLogger(__name__)


def load_quantised(model: str, dtype: torch.dtype) -> Any:
    """A causal language model whose linear layers are in NF4, from the cache where it is there.

    transformers puts it on the GPU where there is one, else on the CPU.

    Args:
        model: `embedded`, a folder, or a Hugging Face id.
        dtype: of its arithmetic, and of what stays unquantised.

    Raises:
        UserError: if the model is not to be had.
    """
    source = model_folder(model)
    settings: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch."),
    }
    folder = cache_dir() / "quantised" / _key(source, settings)
    if is_whole(folder):
        kept = read_weights(model, folder, dtype)
        kept.config.name_or_path = kept.name_or_path = str(source)
        return kept
    refuse_broken(model, source)
    fresh = read_weights(model, source, dtype, quantization_config=BitsAndBytesConfig(**settings))
    try:
        with exclusive(folder.parent, wait=True):
            if not is_whole(folder):
                _store(fresh, folder)
    except (OSError, SafetensorError) as error:  # a full disk, or a cache that nobody may write to, costs only time
        logger.warning("the quantised model cannot be kept in %s (%s); it is made again every time", folder, error)
    return fresh


def _key(source: Path, settings: dict[str, Any]) -> str:
    """Sixteen hex digits of everything that decides the quantised bytes; of the weights every byte is read."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    about = {
        "config": {key: value for key, value in config.items() if key != "_name_or_path"},
        "weights": [file_hash(path) for path in sorted(source.glob("*.safetensors"))],
        "settings": settings,
        "device": "cuda" if torch.cuda.is_available() else "cpu",  # where transformers quantises
        "versions": {name: version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _store(model: Any, folder: Path) -> None:
    with replacing(folder) as partial:
        with without_bars():
            model.save_pretrained(partial)
        for path in partial.iterdir():  # safetensors makes its files private, and a cache may be shared
            path.chmod((partial / "config.json").stat().st_mode)
        seal(partial)
