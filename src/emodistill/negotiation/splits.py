"""Which scenario is for training, validation and test: a manifest with a hash, and the check that nothing leaks.

Splits are by scenario and within each domain 70/10/20, so no situation that a policy is tested on was ever trained on.
The manifest also keeps a fingerprint of every scenario's context: the same id with another content is no longer the
scenario that was split, and is refused.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.errors import UserError
from emodistill.files import atomic_write
from emodistill.negotiation.scenarios import Scenario

SPLITS = ("train", "val", "test")
_VAL, _TEST = 0.1, 0.2
_SCHEMA = 1


def content_of(scenario: Scenario) -> str:
    """Fingerprint of a situation: its context without case, spacing or id column; of its targets if it has none."""
    ignored = scenario.rules.csv["id_column"]
    texts = {
        column: " ".join(text.split()).casefold() for column, text in scenario.context.items() if column != ignored
    }
    content: Any = texts or [scenario.id, scenario.focal_target, scenario.counterparty_target]
    return hashlib.sha256(json.dumps([scenario.domain, content], sort_keys=True).encode()).hexdigest()


def check_no_leak(splits: Mapping[str, Iterable[Scenario]]) -> None:
    """Raises UserError, naming the scenario, if an id or an identical context stands in two splits."""
    seen: dict[str, tuple[str, str]] = {}
    for split, scenarios in splits.items():
        for scenario in scenarios:
            for key in (scenario.id, content_of(scenario)):
                first, other = seen.setdefault(key, (split, scenario.id))
                if first != split:
                    raise UserError(_leak(scenario.id, split, other, first))


def _leak(scenario: str, split: str, other: str, first: str) -> str:
    same = "is" if scenario == other else f"has the same context as {other}, which is"
    return f"scenario {scenario} is in the split '{split}' and {same} in '{first}' too; keep it in one of them"


@dataclass(frozen=True)
class Manifest:
    """The split of every scenario. `entries` maps a scenario's id to (split, fingerprint of its content)."""

    seed: int
    entries: dict[str, tuple[str, str]]

    def __post_init__(self) -> None:
        seen: dict[str, tuple[str, str]] = {}
        for name, (split, content) in self.entries.items():
            if split not in SPLITS:
                raise UserError(f"scenario {name} is in the split '{split}'; there are {', '.join(SPLITS)}")
            first, other = seen.setdefault(content, (split, name))
            if first != split:
                raise UserError(_leak(name, split, other, first))

    @property
    def hash(self) -> str:
        """SHA-256 over seed and entries, in hexadecimal; independent of the order of entries."""
        return hashlib.sha256(json.dumps([_SCHEMA, self.seed, self.entries], sort_keys=True).encode()).hexdigest()

    def ids(self, split: str) -> list[str]:
        """Ids of one split, in alphabetical order."""
        return sorted(name for name, entry in self.entries.items() if entry[0] == split)

    def split(self, scenario: Scenario) -> str:
        """`train`, `val` or `test`.

        Raises:
            UserError: if the scenario is not in the manifest, or its content is not what was split under its id.
        """
        if scenario.id not in self.entries:
            raise UserError(f"scenario {scenario.id} is not in the split manifest; split the scenarios again")
        split, content = self.entries[scenario.id]
        if content_of(scenario) != content:
            raise UserError(f"scenario {scenario.id} is not the one that was split under this id; split again")
        return split

    def write(self, path: str | Path) -> None:
        """Write as JSON, with the hash, in one step: a broken write leaves an earlier file as it was."""
        ids = {split: {name: self.entries[name][1] for name in self.ids(split)} for split in SPLITS}
        content = {"schema": _SCHEMA, "seed": self.seed, "splits": ids, "hash": self.hash}
        atomic_write(Path(path), json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        """Read what `write` wrote.

        Raises:
            UserError: if the file is missing or no manifest, a scenario is in two splits, or the hash does not fit.
        """
        path = Path(path)
        raw = _load(path)
        entries: dict[str, tuple[str, str]] = {}
        for split, members in raw["splits"].items():
            for name, content in members.items():
                if name in entries:
                    raise UserError(f"{path}: {_leak(name, split, name, entries[name][0])}")
                entries[name] = (split, content)
        manifest = cls(raw["seed"], entries)
        if manifest.hash != raw["hash"]:
            raise UserError(f"{path} was changed after it was written (its hash differs); delete it and split again")
        return manifest


def _load(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of a split manifest") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and split the scenarios again") from error
    shape = isinstance(raw, dict) and set(raw) == {"schema", "seed", "splits", "hash"} and raw["schema"] == _SCHEMA
    members = raw["splits"].values() if shape and isinstance(raw["splits"], dict) else [None]
    if not all(isinstance(split, dict) and all(isinstance(one, str) for one in split.values()) for split in members):
        raise UserError(f"{path} is not a split manifest of schema {_SCHEMA}; delete it and split the scenarios again")
    return dict(raw)


def split_of(scenarios: Sequence[Scenario], seed: int) -> Manifest:
    """Split 70/10/20 within each domain; order of the scenarios and presence of other domains do not matter.

    Raises:
        UserError: if a domain has fewer than three scenarios, an id occurs twice, or two splits would share a context.
    """
    entries: dict[str, tuple[str, str]] = {}
    for domain in sorted({scenario.domain for scenario in scenarios}):
        members = {scenario.id: scenario for scenario in scenarios if scenario.domain == domain}
        if len(members) < 3:
            raise UserError(f"domain {domain} has {len(members)} scenarios; at least 3 are needed to split them")
        for name, split in _assign(sorted(members), seed, domain):
            if name in entries:
                raise UserError(f"scenario {name} is in two domains; give every scenario an id of its own")
            entries[name] = (split, content_of(members[name]))
    if len(entries) != len(scenarios):
        ids = [scenario.id for scenario in scenarios]
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"scenario {twice} occurs twice; give every scenario an id of its own")
    return Manifest(seed, entries)


def shares(count: int) -> tuple[int, int, int]:
    """How many of a domain's scenarios are for training, validation and test."""
    val, test = max(1, round(_VAL * count)), max(1, round(_TEST * count))
    return count - val - test, val, test


def _assign(ids: list[str], seed: int, domain: str) -> list[tuple[str, str]]:
    train, val, test = shares(len(ids))
    order = np.random.default_rng((seed, zlib.crc32(domain.encode()))).permutation(len(ids))
    splits = ["val"] * val + ["test"] * test + ["train"] * train
    return [(ids[i], split) for i, split in zip(order, splits, strict=True)]
