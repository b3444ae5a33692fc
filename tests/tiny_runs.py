"""Whole stages on a tiny model and a tiny corpus, in this process: what `python train.py ...` does, without its start.

A fixture of a test file makes the `Workplace`; its corpus is built once and read by every run in it. A file that only
needs finished stages to begin with has them from `begun`, which trains them once for all.
"""

import os
import random
import shutil
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from lightning.pytorch.callbacks import Callback, Checkpoint, Timer
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tiny_model import build_tiny_model

from evaluate import evaluate
from train import train

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SIZE = {
    "iql_steps": 8,
    "iql_val_every": 4,
    "sft_steps": 6,
    "jpo_steps": 4,
    "accumulate": 1,
    "jpo_accumulate": 1,
    "sft_val_every": 2,
    "jpo_val_every": 2,
    "max_tokens": 2048,
    "test_scenarios": 1,
    "episodes_per_scenario": 1,
    "validation_chats": 2,
    "validation_contexts": 2,
    "expression_contexts": 2,
}
QUIET = ("callbacks.progress_bar=null", "+trainer.enable_progress_bar=false", "trainer.accelerator=cpu")


def composed(config, *overrides):
    """The configuration as Hydra composes it; the folder of configs is the project's own.

    Hydra takes a third of a second for the choice of files, so each choice is composed once a process. Values are set
    on a copy, as Hydra does it last; what cannot be set is left to Hydra and its errors.
    """
    overrides = [str(override) for override in overrides]
    groups, values = [], []
    for override in OverridesParser.create().parse_overrides(overrides):
        key, repo = override.key_or_group, ConfigStore.instance().repo
        chooses = override.package is not None or (CONFIGS / key.replace(".", "/")).is_dir() or key in repo
        (groups if chooses or override.is_delete() or override.is_sweep_override() else values).append(override)
    try:
        made = deepcopy(_of_files(config, tuple(override.input_line for override in groups)))
        for override in values:
            key, value = override.key_or_group, override.value()
            if override.is_add() and OmegaConf.select(made, key) is not None:
                return by_hydra(config, overrides)
            OmegaConf.update(made, key, value, merge=True, force_add=override.is_add() or override.is_force_add())
    except (HydraException, OmegaConfBaseException):
        return by_hydra(config, overrides)
    return made


def by_hydra(config, overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(config, overrides=list(overrides))


_of_files = cache(by_hydra)


def batches(stage):
    """What tiny stages learn from at a time, and how long they write."""
    if stage == "iql":  # fewer of 1,000 updates, which would be most of a tiny run's time
        return ["data.dataset.batch_size=16", "+learner.fqe_updates=50"]
    return ["data.dataset.batch_size=2", "sampler.max_new_tokens=6", "policy.lora.lora_dropout=0.05"]


class Workplace:
    """A folder with any number of runs, of a tiny model and a corpus that lie there too or are given."""

    def __init__(self, folder, model=None, corpora=None):
        self.folder, self.corpora = folder, corpora or folder / "corpora"
        self.model = model or build_tiny_model(folder / "model")

    def overrides(self, run, *more):
        """What every command here has in common; `more` is what it is given besides."""
        rubric = not any(override.startswith("judge=") for override in more)
        return [
            f"run_dir={self.folder / run}",
            f"judge.ledger.path={self.folder / 'ledger.sqlite'}",  # and not the one of whoever runs the tests
            f"model.base_model={self.model}",
            *["judge.judge.sense=null"] * rubric,  # to a model of random weights all words are alike
            f"data.corpus.folder={self.corpora}",
            "data.corpus.episodes_per_scenario=2",
            "scenarios.per_domain=10",
            "domains=[debt]",
            *(f"size.{key}={value}" for key, value in SIZE.items()),
        ]

    def config(self, stage, run="run", *overrides):
        own = [f"stage={stage}", "monitor.save_every=1", *QUIET, *batches(stage), *self.overrides(run, *overrides)]
        return composed("train", *own, *overrides)

    def train(self, stage, run="run", *overrides):
        return train(self.config(stage, run, *overrides))

    def evaluate(self, run="run", *overrides):
        return evaluate(composed("evaluate", *self.overrides(run, *overrides), "sampler.max_new_tokens=6", *overrides))

    def copy(self, run, other, stages):
        """A new run that begins with the finished stages of another."""
        for stage in stages:
            shutil.copytree(self.folder / run / stage, self.folder / other / stage)

    def weights(self, run, stage, name="last.ckpt"):
        """The learned weights in a checkpoint."""
        saved = torch.load(self.folder / run / stage / name, weights_only=True)
        return saved["state_dict"]


def begun(tmp_path_factory, name, *stages):
    """A workplace whose `run` has these finished stages of plain settings; who needs one first trains it for all."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    place, model = tmp_path_factory.mktemp(name), shared / "tiny-model"
    with FileLock(shared / "trained.lock"):
        if not model.is_dir():
            build_tiny_model(model)
        trained = Workplace(shared / "trained", str(model), shared / "corpora")
        for stage in ("iql", "sft", "jpo"):
            if stage in stages:
                if not (trained.folder / "run" / stage / "finished.json").is_file():
                    trained.train(stage)
                copied = place / "run" / stage
                shutil.copytree(trained.folder / "run" / stage, copied)
                config = (copied / "config.yaml").read_text(encoding="utf-8")
                own = config.replace(str(trained.folder), str(place))
                (copied / "config.yaml").write_text(own, encoding="utf-8")
    return Workplace(place, trained.model, trained.corpora)


class PowerCut(Checkpoint):
    """Ends the run at a moment of a step, after everything else that happens at that moment.

    Args:
        when: `step`, at the end of its batch, or `validation`, at the end of the validation that follows it.
    """

    def __init__(self, step, when="step"):
        self.step, self.when = step, when

    def on_train_batch_end(self, trainer, *_):
        if self.when == "step" and trainer.global_step == self.step:
            raise RuntimeError("power cut")

    def on_validation_end(self, trainer, *_):
        if self.when == "validation" and trainer.global_step == self.step:
            raise RuntimeError("power cut")


class OutOfTime(Callback):
    """Lets `trainer.max_time` be over at a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step + 1 == self.step:
            (timer,) = (callback for callback in trainer.callbacks if isinstance(callback, Timer))
            timer._duration = 0.0


def scramble():
    """A fresh process remembers nothing."""
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


def cut_and_resume(place, stage, run, step, when="step", overrides=()):
    """Train with a power cut, then the same command again; returns the trainer of the second."""
    cut = {"_target_": "tiny_runs.PowerCut", "step": step, "when": when}
    with pytest.raises(RuntimeError, match="power cut"):
        place.train(stage, run, *overrides, *(f"+callbacks.cut.{key}={value}" for key, value in cut.items()))
    scramble()
    forget_cut(place.folder / run / stage)
    return place.train(stage, run, *overrides)


def forget_cut(stage_dir):
    """The callback that stands for the power cut is no part of the configuration that is continued."""
    file = stage_dir / "config.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    del config["callbacks"]["cut"]
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def train_on_other_data(place, run, overrides):
    """The workplace's own settings of the bundled corpus do not go with another source."""
    ours = [f"run_dir={place.folder / run}", f"judge.ledger.path={place.folder / 'ledger.sqlite'}", "domains=[debt]"]
    kept = [change for change in overrides if not change.startswith("~")]
    train(composed("train", "stage=iql", *QUIET, "size.iql_steps=2", "size.iql_val_every=2", *ours, *kept))


def files(folder):
    """Every file with its content's age; the lock is not content."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
