"""The folder of a saved adapter: what it was trained for, read without PEFT.

    adapter_model.safetensors, adapter_config.json      PEFT's own
    emodistill.json                                     base model and vocabulary with their fingerprints; `four_bit`,
                                                        whether it learnt on the base in NF4 (older ones lack it)

`policy.expression_policy` writes and loads it.
"""

import json
from pathlib import Path
from typing import Any, cast, get_args

from emodistill.errors import UserError
from emodistill.negotiation.prompts import Emotions
from emodistill.runs import ADAPTER_CONFIG, ADAPTER_NOTE, ADAPTER_WEIGHTS


def read_identity(folder: Path) -> dict[str, Any]:
    """What an adapter was trained for.

    Raises:
        UserError: if the folder holds no adapter of this project, or a damaged one.
    """
    lacking = [name for name in (ADAPTER_NOTE, ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{folder} holds no adapter ({lacking[0]} is missing); train the stage that writes it first")
    try:
        return dict(json.loads((folder / ADAPTER_NOTE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{folder / ADAPTER_NOTE} is damaged ({error}); train the stage that writes it again"
        ) from error


def refuse_foreign(theirs: dict[str, Any], ours: dict[str, Any], source: str) -> None:
    """Compare two identities by their fingerprints, and by the base's precision.

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
    if theirs.get("chat_fingerprint", ours.get("chat_fingerprint")) != ours.get("chat_fingerprint"):
        raise UserError(
            f"{source} was trained with another chat template or tokenizer of '{ours['base_model']}'; use the files "
            "that it was trained with, or train the stage again"
        )
    four_bit = theirs.get("four_bit", ours.get("four_bit"))
    if four_bit != ours.get("four_bit"):
        raise UserError(
            f"{source} was trained with policy.four_bit={str(four_bit).lower()}; use the same here, or train the stage "
            "again"
        )
    trained, wanted = emotions_of(theirs, source), emotions_of(ours, source)
    if trained != wanted:
        raise UserError(
            f"{source} was trained with emotions {trained}, not {wanted}; train with the "
            "variant that it belongs to, or start from an adapter of this one"
        )


def emotions_of(identity: dict[str, Any], source: str) -> Emotions:
    """How emotions entered the chats that an adapter was trained on; `source` is where its identity was read.

    Raises:
        UserError: if the identity names a way that does not exist.
    """
    found = identity.get("emotions", "prompted")
    if found not in get_args(Emotions):
        raise UserError(
            f"{source}: emotions={found}: use one of {', '.join(get_args(Emotions))}, or train the stage again"
        )
    return cast(Emotions, found)
