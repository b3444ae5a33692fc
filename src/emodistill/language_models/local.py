"""Language models on this machine: the embedded one, a folder, or a Hugging Face id.

Whatever the name, the files are brought into a folder first and loaded from there, so that every way in which a model
can be missing is one error that names the key `model`. Only safetensors are read: a pickle can run code.
"""

import hashlib
import json
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from emodistill.errors import UserError
from emodistill.execution.worker import FULL_DISK
from emodistill.language_models.embedded import embedded_model
from emodistill.language_models.model_files import (
    EMBEDDED,
    named_folder,
    read_config,
    refuse_broken,
    refuse_kind,
    refuse_silent,
)
from emodistill.language_models.packed_linear import pack_linears, widen_linears

if TYPE_CHECKING:  # and imported where a model is loaded: these imports take seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WEIGHTS = "*.safetensors"
SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
TWICE = ["original/*", "metal/*", "consolidated*"]  # weights that a repository holds once more, in another layout
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instructions, as torch calls them; the last is ARM's
SAMPLES, SAMPLE_BYTES = 64, 4096
UNLIMITED = 2**20  # tokens of a chat with a model that states no limit
_SHARED: "weakref.WeakValueDictionary[tuple[str, ...], PreTrainedModel]" = weakref.WeakValueDictionary()
_SHARING = threading.Lock()
DEVICE = re.compile(r"cpu|gpu|cuda(:\d{1,2})?")  # PyTorch knows more, such as mps; nothing here was tried on them
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def device_of(name: str) -> torch.device:
    """The device of a name: `auto` (the GPU where there is one, else the CPU), `cpu`, `gpu`, or one GPU, as `cuda:1`.

    Raises:
        UserError: if there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not DEVICE.fullmatch(name):
        raise UserError(f"device={name}: choose auto, cpu, gpu, or one GPU such as cuda:1")
    device = torch.device("cuda" if name == "gpu" else name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: PyTorch finds no GPU here; choose cpu (in training: trainer.accelerator=cpu)")
    if device.type == "cuda" and device.index is not None and device.index >= (count := torch.cuda.device_count()):
        raise UserError(f"device={name}: PyTorch finds {count} here, counted from cuda:0; choose one of them, or auto")
    return device


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; `auto` is bfloat16 where this device multiplies it, and float32 elsewhere.

    A CPU without such instructions takes ten times as long with bfloat16 as with float32 (docs/performance.md), and a
    GPU without them emulates it.

    Raises:
        UserError: if there is no such dtype.
    """
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise UserError(f"dtype={name}: choose auto or one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capable = torch.cpu.get_capabilities()
        return any(capable.get(instructions) for instructions in NATIVE_BFLOAT16)
    return False


def resolve(model: str) -> str:
    """What `from_pretrained` takes: the folder of the embedded model, a folder as it is, or a hub id as it is.

    Raises:
        UserError: if it is written like a path and there is no such folder.
    """
    if model == EMBEDDED:
        return str(embedded_model())
    folder = named_folder(model)
    return model if folder is None else str(folder)


def public_name(model: str) -> str:
    """What a model is called elsewhere: its hub id where that is known, else the name of its folder, never a path."""
    if model == EMBEDDED:
        return EMBEDDED_HUB_ID
    name = resolve(model)
    if not Path(name).is_dir():
        return name
    saved = json.loads((model_folder(model) / "config.json").read_text(encoding="utf-8")).get("_name_or_path", "")
    return saved if HUB_ID.fullmatch(saved) else Path(name).resolve().name


def model_folder(model: str, weights: bool = True) -> Path:
    """The local folder with the files of a model; a hub id is downloaded the first time.

    Args:
        weights: whether they are needed too; they are fetched once the configuration is found fit.

    Raises:
        UserError: if the model is not to be had, is no plain causal language model, or its weights are not in
            safetensors.
    """
    name = resolve(model)
    local = Path(name).is_dir()
    folder = Path(name) if local else _download(name, SMALL_FILES)
    refuse_kind(model, folder)
    if weights and not local:
        folder = _download(name, [WEIGHTS, *SMALL_FILES])
    if weights and not any(folder.glob(WEIGHTS)):
        raise UserError(f"model={model}: {folder} holds no {WEIGHTS}; give a folder saved with save_pretrained")
    return folder


def _download(hub_id: str, files: list[str]) -> Path:
    return fetched(hub_id, f"model={hub_id}", f", or use model={EMBEDDED}", files)


def fetched(hub_id: str, name: str, otherwise: str = "", files: list[str] | None = None) -> Path:
    """The local folder with the files of a repository on the hub; they are downloaded the first time.

    Args:
        name: what it is called in an error.
        otherwise: another way out, for an error.
        files: patterns of the files that are wanted; None is all.

    Raises:
        UserError: if it is not to be had.
        OSError: if the disk is full.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(hub_id, allow_patterns=files, ignore_patterns=TWICE))
    except GatedRepoError as error:
        raise UserError(f"{name}: needs its terms accepted on the hub, then `hf auth login`") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"{name}: the hub has no such model; check the id{otherwise}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        if getattr(error, "errno", None) in FULL_DISK:
            raise  # it says so itself
        raise UserError(
            f"{name}: not in the local cache and the hub cannot be reached; connect, or give a folder{otherwise}"
        ) from error


def load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model.

    Raises:
        UserError: if the model is not to be had, or has no chat template.
    """
    folder = model_folder(model, weights=False)
    refuse_silent(model, folder)
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"model={model}: no tokenizer can be read from {folder} ({_first_line(error)})") from error
    if not tokenizer.chat_template:
        raise UserError(f"model={model}: has no chat template; use an instruction-tuned model")
    return tokenizer


def context_of(model: str) -> int:
    """The most tokens that a chat may have with a model, from its configuration alone.

    Raises:
        UserError: if the model is not to be had, or the installed transformers does not know such models.
    """
    folder = model_folder(model, weights=False)
    known_kind(model, folder)
    from transformers import AutoConfig

    return context_limit(AutoConfig.from_pretrained(folder))


def context_limit(settings: Any) -> int:
    """The most tokens that a chat may have with a model of this configuration of transformers.

    With rotations of two lengths (Phi-3's `longrope`) it is the shorter one: beyond it the library would turn the keys
    of all earlier tokens anew, and what is kept of them would be wrong.
    """
    config = settings.get_text_config()
    rotation = getattr(config, "rope_parameters", None) or {}
    longest = int(getattr(config, "max_position_embeddings", None) or UNLIMITED)
    if rotation.get("rope_type") == "longrope":
        longest = min(longest, int(rotation["original_max_position_embeddings"]))
    return longest


def load_model(
    model: str, dtype: str | torch.dtype = torch.bfloat16, device: str | torch.device = "cpu"
) -> "PreTrainedModel":
    """A causal language model in evaluation mode.

    Args:
        dtype: a torch dtype or its name, see `dtype_of`.
        device: where it computes, see `device_of`.

    Raises:
        UserError: if the model is not to be had or its files are damaged, or dtype or device have no meaning here.
    """
    place = device_of(device) if isinstance(device, str) else device
    wanted = dtype_of(dtype, place) if isinstance(dtype, str) else dtype
    folder = model_folder(model)
    refuse_broken(model, folder)
    loaded: PreTrainedModel = read_weights(model, folder, wanted).to(place).eval()
    return loaded


def known_kind(model: str, folder: Path) -> None:
    """Refuse a model of which the installed transformers has no causal language model.

    Raises:
        UserError: naming its kind.
    """
    from transformers import __version__ as transformers_version
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = read_config(model, folder).get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model={model}: transformers {transformers_version} has no language model of its kind ({kind}); choose "
            "another, or a later transformers"
        )


def read_weights(model: str, folder: Path, dtype: torch.dtype | str, **settings: Any) -> Any:
    """The causal language model in a folder, as transformers places it.

    Args:
        model: what it is called in an error.
        dtype: `auto` is that of the files.
        settings: more for `from_pretrained`.

    Raises:
        UserError: if its files are damaged or do not hold every weight, or the installed transformers does not know
            such models.
    """
    known_kind(model, folder)
    from transformers import AutoModelForCausalLM

    settings |= {"dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        with without_bars():
            loaded, about = AutoModelForCausalLM.from_pretrained(folder, **settings)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"model={model}: {folder} cannot be loaded ({_first_line(error)}); delete that folder and fetch it again"
        ) from error
    # the library draws these at random, and only warns
    lacking = sorted({*about["missing_keys"], *(name for name, *_ in about["mismatched_keys"])})
    if lacking:
        raise UserError(
            f"model={model}: {folder} lacks {len(lacking)} weights of the model in its config.json, or has them in "
            f"another shape, first {lacking[0]}; fetch the model again"
        )
    return loaded


def shared_model(
    model: str,
    dtype: str | torch.dtype,
    device: str | torch.device,
    adapter: str = "",
    load: "Callable[[], PreTrainedModel] | None" = None,
    compact: bool = False,
) -> "PreTrainedModel":
    """As `load_model`, but once in a process for equal files, dtype and device, as long as somebody uses the weights.

    They are frozen, packed (see `packed_linear`) and for reading only: whoever trains a model or writes into its
    weights loads their own.

    Args:
        adapter: names what is merged into them, if anything.
        load: makes the merged weights.
        compact: in float32, take as little memory as the files do (see `packed_linear`): for long texts, not to speak.
    """
    place = device_of(device) if isinstance(device, str) else device
    wanted = dtype_of(dtype, place) if isinstance(dtype, str) else dtype
    compact = compact and wanted == torch.float32
    key = (fingerprint(model), str(wanted), str(place), adapter, str(compact))
    with _SHARING:
        found = _SHARED.get(key)
        if found is None:
            if compact:
                loaded = read_weights(model, model_folder(model), "auto").to(place).eval()
                widen_linears(loaded)
            else:
                loaded = load() if load else load_model(model, wanted, place)
                pack_linears(loaded)
            found = _SHARED[key] = loaded.requires_grad_(False)
    return found


@contextmanager
def without_bars() -> Iterator[None]:
    """Reading weights from the disk takes a moment: no bar for that. Downloads keep theirs."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def fingerprint(model: str) -> str:
    """Sixteen hex digits that tell models apart, from the config and the weights, wherever the folder lies.

    Of the weights it reads the header and 64 samples a file, not every byte: a fine-tuned copy differs everywhere, and
    a 7B model is answered at once.
    """
    folder = model_folder(model)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("_name_or_path", "transformers_version"):
        config.pop(key, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for i in range(SAMPLES):
                file.seek(max(size - SAMPLE_BYTES, 0) * i // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def chat_fingerprint(model: str) -> str:
    """Sixteen hex digits of a model's chat template and tokenizer: with others it is shown, and says, something else.

    What a file of a tokenizer looks like changes with the version of its library; its entries, merges and added tokens
    do not.

    Raises:
        UserError: if the model is not to be had, or its tokenizer is damaged.
    """
    folder = model_folder(model)
    try:
        return _chat_digest(folder)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"model={model}: no tokenizer can be read from {folder} ({_first_line(error)}); fetch the model again"
        ) from error


def _chat_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.jinja")):
        digest.update(path.read_bytes())
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
        digest.update(json.dumps(template, sort_keys=True).encode())
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            digest.update(_entries((folder / name), (folder / name).stat().st_mtime_ns))
            break
    return digest.hexdigest()[:16]


@lru_cache(8)
def _entries(path: Path, changed: int) -> bytes:
    """A digest of a tokenizer's entries, merges and added tokens, or of a file that is not JSON as a whole."""
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes()).digest()
    saved = json.loads(path.read_text(encoding="utf-8"))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in saved["model"].get("merges", [])]
    added = [(token["id"], token["content"], token["special"]) for token in saved.get("added_tokens", [])]
    entries = [saved["model"].get("vocab"), merges, added]
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).digest()
