"""The folder of one stage of one run: what it was begun with, how far it is, and whether it is done.

    checkpoints/<run>/<stage>/config.yaml      the configuration the stage began with
                              last.ckpt        where to continue
                              finished.json    written when training ended as planned

A stage that is run again continues, says that it is done, or is refused with the keys that differ.
"""

import json
import math
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from emodistill.errors import UserError
from emodistill.files import atomic_write

MAY_CHANGE = (
    "resume",
    "threads",
    "callbacks.progress_bar",
    "judge_timeout_s",
    "callbacks.samples.judge_timeout_s",
    *(f"learner.judging.{name}" for name in ("look_ahead", "timeout_s", "max_unscored_batches")),
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.devices",
)
OF_ENDPOINTS = ("spending", "traffic", "timeouts", "retries", "breaker", "api_key_env", "price")  # of any seat
State = Literal["new", "continue", "finished"]
LARGEST_SEED = 2**32 - 1  # numpy takes no other
_DAMAGE = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile)


@dataclass(frozen=True)
class StageFolder:
    """One stage's folder; `path` is `checkpoints/<run>/<stage>`."""

    path: Path

    @property
    def last(self) -> Path:
        return self.path / "last.ckpt"

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def finished_file(self) -> Path:
        return self.path / "finished.json"

    def state(self, config: dict[str, Any], resume: str) -> State:
        """What running this stage with this configuration means now.

        Raises:
            UserError: if the folder was begun with another configuration, or is used and `resume` is `never`; or if the
                configuration's seed is none.
        """
        if "seed" in config and not (isinstance(config["seed"], int) and 0 <= config["seed"] <= LARGEST_SEED):
            raise UserError(f"seed={config['seed']}: use a whole number from 0 to {LARGEST_SEED}")
        if resume not in ("auto", "never"):
            raise UserError(f"resume={resume}: use auto (continue an unfinished stage) or never (refuse a used folder)")
        if not self.config_file.is_file():
            return "new"
        if resume == "never":
            raise UserError(
                f"{self.path} is used already and resume=never; choose another run=... or delete the folder"
            )
        self._compare(config)
        if self.finished_file.is_file():
            return "finished"
        return "continue" if self.last.is_file() else "new"

    def finish(self, summary: dict[str, Any]) -> None:
        """Record that the stage ended as planned."""
        atomic_write(self.finished_file, json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        """What `finish` recorded."""
        loaded: dict[str, Any] = json.loads(self.finished_file.read_text(encoding="utf-8"))
        return loaded

    def record(self, config: dict[str, Any]) -> None:
        """Keep the configuration that the stage begins with; one that is there already stays."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config_file.is_file():
            atomic_write(self.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def _compare(self, config: dict[str, Any]) -> None:
        try:
            before = flat(yaml.safe_load(self.config_file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, AttributeError) as error:
            raise UserError(f"{self.config_file} is damaged; delete {self.path} or choose another run=...") from error
        now = flat(config)
        keys = sorted(key for key in before.keys() | now.keys() if not _same(before.get(key), now.get(key)))
        differing = [key for key in keys if not may_change(key)]
        if differing:
            shown = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in differing)
            raise UserError(
                f"{self.path} was begun with another configuration ({shown}); run it as it began, or choose "
                "another run=..."
            )


def may_change(key: str) -> bool:
    """Whether a run may go on with another value: what changes no result, such as a budget that is raised."""
    named = any(key == may or key.startswith(f"{may}.") for may in MAY_CHANGE)
    return named or key.endswith(".device") or not set(OF_ENDPOINTS).isdisjoint(key.split("."))


def _same(one: Any, two: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(two, float) and math.isnan(one) and math.isnan(two)
    return bool(one == two) or both_nan


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists are values."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def read_checkpoint(path: Path, stage: str, remedy: str) -> dict[str, Any]:
    """Load a checkpoint of a stage, safely (weights only), on the CPU.

    Raises:
        UserError: if it is missing, damaged, or not a checkpoint of that stage.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; {remedy}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or no checkpoint ({type(error).__name__}); {remedy}") from error
    found = checkpoint.get("stage") if isinstance(checkpoint, dict) else None
    if found != stage:
        raise UserError(f"{path} is a checkpoint of {found or 'something else'}, not of stage {stage}; {remedy}")
    return dict(checkpoint)
