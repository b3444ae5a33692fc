"""Emotion vocabularies: a list of labels, each with one directive sentence, read from YAML.

The vocabulary is data. `goemotions28` is the default; `ekman7` and `izard10` lie beside it, and any YAML file of the
same form (tactics instead of emotions, say) works by its path. A label that is not in the vocabulary is an error.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import yaml

from emodistill.errors import UserError
from emodistill.files import load_yaml

DEFAULT = "goemotions28"
_FOLDER = files("emodistill") / "assets" / "vocabularies"


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of labels; the position of a label is its action id.

    Attributes:
        name: what the vocabulary is called in configs, corpora and checkpoints.
        labels: the labels, in action order.
        directives: for each label, the sentence that asks a speaker to show it.
        perceived_as: for each label, the GoEmotions labels that a perceiver reports for it (may be empty where the
            labels are no emotions).
    """

    name: str
    labels: tuple[str, ...]
    directives: tuple[str, ...]
    perceived_as: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label: object) -> bool:
        return label in self._index

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.labels)}

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits of the labels and directives: what a selector and a language model are trained with."""
        return hashlib.sha256(json.dumps([self.labels, self.directives]).encode()).hexdigest()[:12]

    def index(self, label: str) -> int:
        """The action id of a label.

        Raises:
            UserError: if the label is unknown.
        """
        if label not in self._index:
            raise UserError(f"unknown emotion '{label}'; vocabulary '{self.name}' has: {', '.join(self.labels)}")
        return self._index[label]

    def directive(self, label: str) -> str:
        """The sentence that asks a speaker to show this emotion; an unknown label is a UserError."""
        return self.directives[self.index(label)]

    def perceived(self, label: str) -> tuple[str, ...]:
        """The GoEmotions labels that count as this label when perceived; an unknown label is a UserError."""
        return self.perceived_as[self.index(label)]


def available() -> list[str]:
    """Names of the vocabularies that ship with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def load_vocabulary(name: str = DEFAULT) -> Vocabulary:
    """Read a vocabulary by its name, or by the path of a YAML file.

    Raises:
        UserError: if there is no such vocabulary, or its file is not of the right form.
    """
    if name in available():
        return _parse((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        raise UserError(f"no vocabulary '{name}'; use {', '.join(available())}, or the path of a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    return _parse(text, str(path))


def _parse(text: str, source: str) -> Vocabulary:
    form = "a vocabulary file has 'name' and 'labels: {label: {directive: ..., perceived_as: [...]}}'"
    try:
        raw = load_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML ({' '.join(str(error).split())}); {form}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("labels"), dict) or not raw["labels"] or "name" not in raw:
        raise UserError(f"{source} is not a vocabulary; {form}")
    for label, entry in raw["labels"].items():
        if not isinstance(label, str):
            raise UserError(f"{source}: the label {label!r} is read by YAML as no word; put it in quotes")
        if "." in label:
            raise UserError(f"{source}: the label '{label}' has a dot, as import paths have; leave it out ({form})")
        if not isinstance(entry, dict) or not isinstance(entry.get("directive"), str):
            raise UserError(f"{source}: label '{label}' has no directive; {form}")
        if not entry["directive"].strip():
            raise UserError(f"{source}: label '{label}' has an empty directive; {form}")
        if unknown := sorted(entry.keys() - {"directive", "perceived_as"}):
            raise UserError(f"{source}: label '{label}' has unknown keys {unknown}; {form}")
        perceived = entry.get("perceived_as") or []
        if not isinstance(perceived, list) or not all(isinstance(name, str) for name in perceived):
            raise UserError(f"{source}: `perceived_as` of label '{label}' is not a list of words; {form}")
    entries = raw["labels"]
    return Vocabulary(
        name=str(raw["name"]),
        labels=tuple(entries),
        directives=tuple(entry["directive"].strip() for entry in entries.values()),
        perceived_as=tuple(tuple(entry.get("perceived_as") or ()) for entry in entries.values()),
    )


def size(name: str) -> int:
    """Number of labels of a vocabulary, for configs."""
    return len(load_vocabulary(name))
