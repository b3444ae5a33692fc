"""A trained selector as two files that hold no code: what is published, and read on other machines.

selector.safetensors    every tensor of the learner, bit for bit: policy, Q, target Q, V, statistics of the corpus
selector.json           its settings, and the vocabulary and observations that it was trained with
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.learners.selector import IQLSelector, made_selector

WEIGHTS, SETTINGS = "selector.safetensors", "selector.json"


def write_selector(selector: IQLSelector, folder: Path) -> None:
    """Write both files into a folder that exists."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in selector.learner.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors 0.8 makes its files private
    about = {"settings": dict(selector.settings), "perceiver": selector.observer.perceiver.version}
    (folder / SETTINGS).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_selector(folder: Path, vocabulary: Vocabulary, temperature: float = 0.0) -> IQLSelector:
    """The selector that `write_selector` wrote; it chooses as the one that was written.

    Raises:
        UserError: if a file is missing or damaged, or it was trained with another vocabulary or perceiver.
    """
    lacking = [name for name in (WEIGHTS, SETTINGS) if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{folder} holds no selector ({lacking[0]} is missing); export the arm again")
    try:
        about = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        selector = made_selector(about["settings"], load_file(folder / WEIGHTS), vocabulary, temperature)
        fingerprint, observed_by = about["settings"]["dataset_stats"]["fingerprint"], about["perceiver"]
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder / SETTINGS} or {WEIGHTS} is damaged; export the arm again") from error
    perceiver = selector.observer.perceiver
    if fingerprint != vocabulary.fingerprint:
        raise UserError(f"{folder} holds a selector of another vocabulary than '{vocabulary.name}'; export it again")
    if observed_by != perceiver.version:
        raise UserError(
            f"{folder} was made with another version of the perceiver ({observed_by}, here {perceiver.version}); "
            "install the version of emodistill that it names, or export it again"
        )
    return selector


def same_selector(one: IQLSelector, two: IQLSelector) -> bool:
    """Whether two selectors have the same tensors, bit for bit."""
    mine, theirs = one.learner.state_dict(), two.learner.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(tensor, theirs[key]) for key, tensor in mine.items())
