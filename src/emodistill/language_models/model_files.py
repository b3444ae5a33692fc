"""What can be seen of a model from its files alone, in milliseconds and without PyTorch: what is wrong with it.

A model that cannot be trained here is refused before anything heavy is imported, downloaded or computed.
"""

import json
from pathlib import Path
from typing import Any

from emodistill.errors import UserError

EMBEDDED = "embedded"
INDEX = "model.safetensors.index.json"
_WRAPPED = ("vision_config", "audio_config", "speech_config", "text_config")  # keys of models that read more than text
_CAUSAL = ("ForCausalLM", "LMHeadModel")  # how the classes of causal language models are called
_CONV1D = ("gpt2", "openai-gpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def named_folder(model: str) -> Path | None:
    """The folder that a model's name is the path of; None where it is the embedded one or a Hugging Face id.

    Raises:
        UserError: if it is written like a path and there is no such folder.
    """
    if model == EMBEDDED:
        return None
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UserError(
            f"model={model}: there is no such folder; give a folder with a model, a Hugging Face id (owner/name), "
            f"or model={EMBEDDED}"
        )
    return None


def quick_check(model: str) -> None:
    """Refuse a model that cannot be trained, as far as its files say so; one that is not here yet passes.

    Of a model of the hub only its kind is looked at: files that are not in the cache are fetched when they are needed.

    Raises:
        UserError: naming the model, what is wrong with it, and the way out.
    """
    folder = named_folder(model)
    if folder is not None:
        refuse_kind(model, folder)
        refuse_broken(model, folder)
        refuse_silent(model, folder)
    elif (cached := _cached(model)) is not None:
        refuse_kind(model, cached)


def _cached(model: str) -> Path | None:
    """Where an id of the hub lies in its cache; None where it does not."""
    if model == EMBEDDED:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # no id that the hub could have: who asks the hub says so
        return None
    return Path(found).parent if isinstance(found, str) else None


def read_config(model: str, folder: Path) -> dict[str, Any]:
    """The configuration of the model in a folder.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"model={model}: {folder} holds no config.json; give a folder saved with save_pretrained")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model={model}: {path} is damaged ({error}); fetch the model again") from error
    if not isinstance(config, dict):
        raise UserError(f"model={model}: {path} is damaged (it holds no object); fetch the model again")
    return config


def refuse_kind(model: str, folder: Path) -> None:
    """Refuse what is no plain causal language model, by its configuration.

    Raises:
        UserError: naming the model and its kind.
    """
    config = read_config(model, folder)
    names = config.get("architectures") or [str(config.get("model_type", "an unknown kind"))]
    if any(key in config for key in _WRAPPED):
        raise UserError(f"model={model}: reads more than text ({names[0]}); choose a text model of its family")
    if config.get("is_encoder_decoder"):
        raise UserError(f"model={model}: has an encoder beside its decoder ({names[0]}); choose a decoder alone")
    if config.get("architectures") and not names[0].endswith(_CAUSAL):
        raise UserError(f"model={model}: is no causal language model ({names[0]}); choose one")
    if config.get("model_type") in _CONV1D:
        raise UserError(f"model={model}: has Conv1D layers, as GPT-2, which are not supported; choose another")
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "an unknown method")
        bits = quantised.get("bits") or (4 if quantised.get("load_in_4bit") else None)
        raise UserError(
            f"model={model}: its weights are quantised already ({method}{f', {bits} bits' if bits else ''}); give the "
            "model in 16 bits, training holds it in 4 bits itself"
        )


def refuse_broken(model: str, folder: Path) -> None:
    """Refuse weights of which a file is missing or cut short, by the sizes that the files themselves state.

    Raises:
        UserError: naming the file.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"model={model}: {index} is damaged ({error}); fetch the model again") from error
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise UserError(f"model={model}: {folder} holds no *.safetensors; give a folder saved with save_pretrained")
    for name in names:
        path = folder / name
        if not path.is_file():
            raise UserError(f"model={model}: {folder} holds no {name}; fetch the model again")
        reason = _damage(path)
        if reason:
            raise UserError(
                f"model={model}: {folder} cannot be loaded ({name} {reason}); delete that folder and fetch it again"
            )


def _damage(path: Path) -> str | None:
    """What is wrong with a safetensors file: its first 8 bytes state the length of its header, that the end of data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"is cut short at {size:,} bytes"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, IndexError, AttributeError, TypeError):
            return "has a damaged header"
    whole = 8 + length + max(ends, default=0)
    return f"is cut short: {size:,} of {whole:,} bytes" if size < whole else None


def refuse_silent(model: str, folder: Path) -> None:
    """Refuse a folder without tokenizer or chat template.

    Raises:
        UserError: naming what is missing.
    """
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise UserError(
            f"model={model}: {folder} holds no tokenizer; copy tokenizer.json and tokenizer_config.json into it"
        )
    if not _has_template(folder):
        raise UserError(f"model={model}: has no chat template; use an instruction-tuned model")


def _has_template(folder: Path) -> bool:
    if any(folder.glob("*.jinja")) or (folder / "chat_template.json").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    try:
        return settings.is_file() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
    except (ValueError, AttributeError):
        return True  # damaged: the tokenizer's own error says how
