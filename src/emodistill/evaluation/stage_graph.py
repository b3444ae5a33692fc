"""What has to be trained before arms can play, and the training of it: one process a stage, in order.

A stage is there when what others take from it is there: `best.ckpt` of a finished selector, the adapter of the rest.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emodistill.errors import UserError
from emodistill.evaluation.arms import UNTRAINED, Arm
from emodistill.evaluation.results import Cost
from emodistill.policy.expression_policy import CONFIG, NOTE, WEIGHTS


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: its folder under the run.
        overrides: what `train.py` is told for it, besides what every stage of the run is told.
        after: stages that it learns from.
    """

    name: str
    overrides: tuple[str, ...]
    after: tuple[str, ...] = ()


STAGES = {
    stage.name: stage
    for stage in (
        Stage("iql", ("stage=iql",)),
        Stage("sft", ("stage=sft",), ("iql",)),
        Stage("jpo", ("stage=jpo",), ("sft",)),
        Stage("sft_emotion_free", ("stage=sft", "variant=emotion_free"), ("iql",)),
        Stage("jpo_emotion_free", ("stage=jpo", "variant=emotion_free"), ("sft_emotion_free",)),
        Stage("sft_joint", ("stage=sft", "variant=joint"), ("iql",)),
        Stage("jpo_joint", ("stage=jpo", "variant=joint"), ("sft_joint",)),
        Stage("jpo_positive_advantage", ("stage=jpo", "variant=positive_advantage"), ("iql", "sft")),
    )
}


def is_there(name: str, run_dir: Path) -> bool:
    """Whether a stage of the run is trained."""
    folder = run_dir / name
    if name == "iql":  # its best checkpoint is written while it learns
        over = (folder / "finished.json").is_file() or not (folder / "last.ckpt").is_file()
        return over and (folder / "best.ckpt").is_file()
    return all((folder / "adapter" / part).is_file() for part in (WEIGHTS, CONFIG, NOTE))


def needed_stages(arms: Sequence[Arm]) -> list[str]:
    """All stages whose training is in what these arms play with, each after those that it learns from."""
    found: dict[str, None] = {}

    def need(name: str) -> None:
        for earlier in STAGES[name].after if name in STAGES else ():
            need(earlier)
        found[name] = None

    for arm in arms:
        if arm.emotion == "iql":
            need("iql")
        if arm.generator not in UNTRAINED:
            need(arm.generator)
    return list(found)


def missing_stages(arms: Sequence[Arm], run_dir: Path) -> list[Stage]:
    """The stages that these arms need and the run does not have, each after those that it learns from.

    Raises:
        UserError: if the words of an arm are an adapter that is not there and that no stage writes.
    """
    found: dict[str, Stage] = {}

    def need(name: str) -> None:
        if name in found or is_there(name, run_dir):
            return
        for earlier in STAGES[name].after:
            need(earlier)
        found[name] = STAGES[name]

    for arm in arms:
        if arm.emotion == "iql":
            need("iql")
        if arm.generator not in UNTRAINED:
            if arm.generator not in STAGES and not is_there(arm.generator, run_dir):
                raise UserError(
                    f"arm '{arm.name}': {run_dir / arm.generator / 'adapter'} holds no adapter, and no stage writes one "
                    f"there; stages are {', '.join(name for name in STAGES if name != 'iql')}"
                )
            need(arm.generator)
    return list(found.values())


def commands(stages: Sequence[Stage], passed: Sequence[str]) -> list[str]:
    """What a user would type to train them."""
    return [shlex.join(["python", "train.py", *stage.overrides, *passed]) for stage in stages]


def train_missing(
    stages: Sequence[Stage], passed: Sequence[str], run_dir: Path, script: Path, stop_after_s: float | None = None
) -> dict[str, Cost]:
    """Train stages one after the other, each in a process of its own whose output is shown; stage -> what it cost.

    A stage that was begun before goes on where it was; the seconds are those of this call. Tokens are not counted.

    Args:
        passed: overrides for every stage, e.g. `run=demo`; they have to make `train.py` use `run_dir`.
        script: `train.py`.
        stop_after_s: longest time for one stage; None is no limit.

    Raises:
        UserError: if one fails, with the command to run it by hand; those before it stay trained.
    """
    costs: dict[str, Cost] = {}
    for stage, words in zip(stages, commands(stages, passed), strict=True):
        print(f"{stage.name} is missing: {words}", flush=True)
        began = time.perf_counter()
        command = [sys.executable, str(script), *stage.overrides, *passed]
        try:
            code = subprocess.run(command, cwd=Path.cwd(), timeout=stop_after_s, check=False).returncode
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"training {stage.name} took more than {stop_after_s:g} s; continue it with: {words}"
            ) from error
        if code == -2 or code == 130:
            raise KeyboardInterrupt
        if code != 0 or not is_there(stage.name, run_dir):
            why = f"ended with exit status {code}" if code else f"left nothing in {run_dir / stage.name}"
            raise UserError(f"training {stage.name} {why}; what it said stands above. Try it by hand: {words}")
        costs[stage.name] = Cost(time.perf_counter() - began)
    return costs
