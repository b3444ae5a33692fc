"""Adapter folders: PEFT's own format, with a note beside it of what the adapter was trained for.

Any PEFT tool reads the folder. `emodistill.json` names the base model and the vocabulary with their fingerprints, and
an adapter meant for others is refused: its weights may well fit the shapes, and would then speak nonsense quietly.
"""

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from emodistill.errors import UserError
from emodistill.negotiation.prompts import Emotions

WEIGHTS, CONFIG, NOTE = "adapter_model.safetensors", "adapter_config.json", "emodistill.json"


def write_adapter(model: Any, name: str, folder: Path, identity: dict[str, str]) -> None:
    """Save one adapter of a PEFT model, whole or not at all; an older one in this place is replaced."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = get_peft_model_state_dict(model, adapter_name=name)
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial / WEIGHTS)
    config = copy.copy(model.peft_config[name])
    config.inference_mode = True
    config.save_pretrained(str(partial))
    (partial / NOTE).write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def read_identity(folder: Path) -> dict[str, str]:
    """What an adapter was trained for.

    Raises:
        UserError: if the folder holds no adapter of this project, or a damaged one.
    """
    lacking = [name for name in (NOTE, CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{folder} holds no adapter ({lacking[0]} is missing); train the stage that writes it first")
    try:
        return dict(json.loads((folder / NOTE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / NOTE} is damaged ({error}); train the stage that writes it again") from error


def check_identity(folder: Path, identity: dict[str, str]) -> None:
    """Refuse an adapter of another base model or vocabulary, by name; a UserError says which."""
    refuse_foreign(read_identity(folder), identity, str(folder))


def refuse_foreign(theirs: dict[str, str], ours: dict[str, str], source: str) -> None:
    """Compare two identities by their fingerprints.

    Raises:
        UserError: naming the source, what it was trained for, and what is in use.
    """
    for what, key in (("base_model", "fingerprint"), ("vocabulary", "vocabulary_fingerprint")):
        if theirs.get(key) != ours[key]:
            label = what.replace("_", " ")
            raise UserError(
                f"{source} was trained for {label} '{theirs.get(what)}' ({theirs.get(key)}), not for '{ours[what]}' "
                f"({ours[key]}); use that {label}, or train the stage again"
            )
    if emotions_of(theirs) != emotions_of(ours):
        raise UserError(
            f"{source} was trained with emotions {emotions_of(theirs)}, not {emotions_of(ours)}; train with the "
            "variant that it belongs to, or start from an adapter of this one"
        )


def emotions_of(identity: dict[str, str]) -> Emotions:
    """How emotions entered the chats that an adapter was trained on."""
    found = identity.get("emotions", "told")
    return "named" if found == "named" else "hidden" if found == "hidden" else "told"


def adapter_fingerprint(folder: Path) -> str:
    """Sixteen hex digits of an adapter's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]


def read_lora_config(folder: Path) -> LoraConfig:
    """The LoRA layout of a saved adapter, ready to be trained further."""
    read_identity(folder)
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / CONFIG} is damaged ({error}); train the stage that writes it again") from error
    config.inference_mode = False
    config.base_model_name_or_path = None  # a folder may have moved; the fingerprint says whether the model is the same
    return config


def read_adapter(model: Any, name: str, folder: Path) -> None:
    """Load saved weights into one adapter of a PEFT model, strictly.

    Raises:
        UserError: if the file is damaged, or its tensors are not exactly those of the adapter.
    """
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({error}); train the stage that writes it again") from error
    own = {key: tensor.shape for key, tensor in get_peft_model_state_dict(model, adapter_name=name).items()}
    theirs = {key: tensor.shape for key, tensor in tensors.items()}
    wrong = sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key))
    if wrong:
        raise UserError(
            f"{folder / WEIGHTS} does not fit the LoRA layout: {len(wrong)} tensors differ, first {wrong[0]}; "
            "use the LoRA settings it was trained with"
        )
    set_peft_model_state_dict(model, tensors, adapter_name=name)
