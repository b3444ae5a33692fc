"""The folder of one stage of one run: what it was begun with, how far it is, and whether it is done.

    checkpoints/<run>/<stage>/config.yaml      the configuration the stage began with
                              used.json        hashes of the weights it learns from, or plays with
                              last.ckpt        where to continue
                              finished.json    written when training ended as planned

A stage that is run again continues, says that it is done, or is refused with the keys that differ.
"""

import hashlib
import json
import math
import os
import pickle
import shutil
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from emodistill.errors import UserError
from emodistill.files import atomic_write, load_yaml

MAY_CHANGE = (  # keys that change no result
    "resume",
    "threads",
    *("shard", "data.corpus.shard"),  # who does it
    *("callbacks.progress_bar", "monitor.refresh_every"),
    "judge_timeout_s",
    "callbacks.samples.judge_timeout_s",
    *(f"learner.judging.{name}" for name in ("look_ahead", "timeout_s", "max_unscored_batches")),
    *(f"learner.sampler.{name}" for name in ("folder", "seen_as", "max_difference", "patience_s")),
    "trainer.max_time",
    "trainer.accelerator",
    *("trainer.devices", "trainer.num_nodes", "trainer.strategy"),  # a step has the same batches on all of them
    *("device", "policy.device", "sampler.device"),  # of an evaluation
    "arms",  # each has files of its own
)
LEARNS_BY = ("data", "learner", "trainer", "monitor", "domains", "vocabulary")  # of a stage's configuration
SHOWS_AND_KEEPS = ("monitor.save_every", "trainer.default_root_dir", "trainer.enable_progress_bar")
UNUSED = {".lock", "tensorboard", "evaluate.log"}  # what a refused command may leave in a folder
ENDPOINT = "emodistill.language_models.client.Endpoint"  # `_target_` of an endpoint, wherever a seat refers to one
MAY_CHANGE_OF_ENDPOINT = ("spending", "traffic", "timeouts", "retries", "breaker", "api_key_env", "price")
ADAPTER_WEIGHTS, ADAPTER_CONFIG, ADAPTER_NOTE = "adapter_model.safetensors", "adapter_config.json", "emodistill.json"
State = Literal["new", "continue", "finished"]
LARGEST_SEED = 2**32 - 1  # numpy takes no other
_DATASET = "data.dataset."
_DAMAGE = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, zipfile.BadZipFile)


def adapter_folder(run_dir: Path, stage: str) -> Path:
    """Where the adapter of a stage lies; a published folder is itself the one adapter that there is."""
    return run_dir if (run_dir / ADAPTER_NOTE).is_file() else run_dir / stage / "adapter"


RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")  # torchrun, SLURM; Lightning: machine, process on it


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first of several processes that train together, as whoever started them has noted."""
    return all(environment.get(name, "0") == "0" for name in RANKS)


def check_seed(seed: Any) -> None:
    """Refuse what cannot seed the generators.

    Raises:
        UserError: if it is no whole number from 0 to `LARGEST_SEED`.
    """
    if not (isinstance(seed, int) and 0 <= seed <= LARGEST_SEED):
        raise UserError(f"seed={seed}: use a whole number from 0 to {LARGEST_SEED}")


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

    @property
    def used_file(self) -> Path:
        return self.path / "used.json"

    @property
    def is_half_trained(self) -> bool:
        """Whether training began here and has not ended; a selector's best checkpoint is there all the same."""
        return self.last.is_file() and not self.finished_file.is_file()

    def state(self, config: dict[str, Any], resume: str) -> State:
        """What running this stage with this configuration means now.

        Raises:
            UserError: if the folder was begun with another configuration, or is used and `resume` is `never`; or if the
                configuration's seed is none.
        """
        if "seed" in config:
            check_seed(config["seed"])
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

    def read_config(self) -> dict[str, Any]:
        """The configuration that the folder was begun with.

        Raises:
            UserError: if the file is damaged.
        """
        try:
            config = load_yaml(self.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{self.config_file} is damaged; delete {self.path} or choose another run=...") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.config_file} is damaged; delete {self.path} or choose another run=...")
        return config

    def record(self, config: dict[str, Any]) -> None:
        """Keep the configuration that the stage begins with; one that is there stays unless its arms differ."""
        self.path.mkdir(parents=True, exist_ok=True)
        before = yaml.safe_load(self.config_file.read_text(encoding="utf-8")) if self.config_file.is_file() else None
        if before is None or before.get("arms") != config.get("arms"):
            atomic_write(self.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def hold_to(self, used: Mapping[str, str], record: bool = True, renewed: Collection[str] = ()) -> None:
        """Refuse weights or scenarios that differ from those that this folder was begun with.

        Args:
            used: name -> hash of what the results here depend on besides the configuration.
            record: keep hashes of names that are new here.
            renewed: names that may differ, for nothing that depends on them is kept here.

        Raises:
            UserError: naming what differs.
        """
        before = json.loads(self.used_file.read_text(encoding="utf-8")) if self.used_file.is_file() else {}
        before = {name: before[name] for name in before if name not in renewed}
        if changed := sorted(name for name in used if before.get(name, used[name]) != used[name]):
            raise UserError(
                f"{self.path} was begun with other {', '.join(changed)}, made anew since; delete the folder to begin "
                "again, or choose another stage_dir=... or run=..."
            )
        if record and not used.keys() <= before.keys():
            atomic_write(self.used_file, json.dumps({**before, **used}, indent=1, sort_keys=True) + "\n")

    def discard_if_unused(self) -> None:
        """Remove the folder, and that of its run, where no stage ever began: it has a lock, and curves of nothing.

        Call it while this process holds the folder: that of another process that is still starting looks the same.
        """
        if self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= UNUSED:
            shutil.rmtree(self.path, ignore_errors=True)  # Windows keeps the lock, which is open
            if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
                self.path.parent.rmdir()

    def _compare(self, config: dict[str, Any]) -> None:
        before = flat(self.read_config())
        now = flat(config)
        endpoints = {key.removesuffix("_target_") for key, value in (before | now).items() if value == ENDPOINT}
        changed = [key for key in differing(before, now) if not may_change(key, endpoints)]
        if changed:
            shown = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed)
            raise UserError(
                f"{self.path} was begun with another configuration ({shown}); use the configuration it began with, "
                "or choose another run=... or, beside it in this run, another stage_dir=..."
            )


def fixed(config: dict[str, Any]) -> dict[str, Any]:
    """The leaves of a configuration, by dotted name, that a run may not change: what its results hang on."""
    leaves = flat(config)
    endpoints = {key.removesuffix("_target_") for key, value in leaves.items() if value == ENDPOINT}
    return {key: value for key, value in leaves.items() if not may_change(key, endpoints)}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """What a stage learns from and how, by dotted name, whatever its folder and its seed.

    That is all below `LEARNS_BY`: whole groups, such as `judge`, stand in the configuration of stages without use of
    them, and what a stage does use of them stands there again.
    """
    run_dir, found = str(config.get("run_dir")), {}
    for key, value in fixed(config).items():
        follows_seed = key.split(".")[-1] == "seed" and "scenarios" not in key.split(".")
        if _is_or_is_below(key, LEARNS_BY) and not _is_or_is_below(key, SHOWS_AND_KEEPS) and not follows_seed:
            inside = f"{value}/".startswith(f"{run_dir}/")
            found[key] = f"run_dir{str(value).removeprefix(run_dir)}" if inside else value
    return found


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The dotted names whose values differ, or that only one of two configurations has."""
    return sorted(key for key in one.keys() | other.keys() if not _same(one.get(key), other.get(key)))


def may_change(key: str, endpoints: Collection[str] = ()) -> bool:
    """Whether a run may continue with another value of a key: it changes no result, such as a budget that is raised.

    Args:
        key: dotted name of a leaf.
        endpoints: prefixes of the endpoints in the configuration, each with its final dot. Only below them may the
            settings of an endpoint change: `retries` of an agent is another thing.
    """
    below = [key.removeprefix(prefix) for prefix in endpoints if key.startswith(prefix)]
    if key.endswith(".device") or "executor" in key.split("."):  # where a model computes, and who works
        return True
    if key.startswith("size."):  # all but one are compared at the keys that take their values
        return key != "size.expression_contexts"
    return _is_or_is_below(key, MAY_CHANGE) or any(_is_or_is_below(rest, MAY_CHANGE_OF_ENDPOINT) for rest in below)


def _is_or_is_below(key: str, names: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def selectors_of(config: Mapping[str, Any]) -> dict[str, Path]:
    """The checkpoints that a training configuration's dataset reads, by their keys."""
    leaves = flat({"data": config.get("data") or {}})
    return {
        key: Path(str(value))
        for key, value in leaves.items()
        if key.startswith(_DATASET) and key.endswith(".checkpoint")
    }


def check_earlier_stages(config: Mapping[str, Any]) -> None:
    """Refuse a stage whose earlier stages are not trained to their end, from file names alone.

    Args:
        config: a training configuration in plain values; it starts from `learner.policy.init_adapter` (a folder)
            and any `checkpoint` below `data` that its dataset reads.

    Raises:
        UserError: naming what is missing and the command that trains it.
    """
    adapter = (config.get("learner") or {}).get("policy", {}).get("init_adapter")
    needed = [*selectors_of(config).values(), *([Path(adapter)] if adapter else [])]
    for path in needed:
        if path.suffix == ".ckpt" and StageFolder(path.parent).is_half_trained:
            raise UserError(f"{path.parent} is not trained to its end; run its command again, which continues it")
        if not path.exists():
            stage = path.parent.name if path.suffix == ".ckpt" or path.name == "adapter" else path.name
            kind, _, variant = stage.partition("_")
            more = f" variant={variant}" if variant else ""
            raise UserError(
                f"{path} is missing; train it with: python train.py stage={kind}{more} (and the same run=...)"
            )


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
    import torch  # here, so that a mistake in a command is named before the seconds that this import takes

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


def weights_hash(path: Path) -> str:
    """Sixteen hex digits of what training gave: an adapter's weights, or those in a selector's checkpoint.

    A checkpoint also holds how long training took, so that the same training gives other files.

    Args:
        path: folder of an adapter, or `best.ckpt` of a selector.

    Raises:
        UserError: if there is no such checkpoint, or it is damaged.
    """
    if path.suffix != ".ckpt":
        return hashlib.sha256((path / ADAPTER_WEIGHTS).read_bytes()).hexdigest()[:16]
    weights = read_checkpoint(path, "iql", "train it with: python train.py stage=iql")["state_dict"]
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return digest.hexdigest()[:16]
