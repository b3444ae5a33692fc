"""The stages of training that arms play with: what each learns from, and whether a run has it.

The pipeline is `iql`, `sft`, `jpo`. A variant of training is one file of `configs/variants/`, which says for each stage
that it trains otherwise what it changes there; that stage has a folder of its own, `<stage>_<variant>`. It learns from
the variant's own stage before it, or the run's, unless the file names others (`after`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.errors import UserError
from emodistill.evaluation.arms import UNTRAINED, Arm
from emodistill.runs import ADAPTER_CONFIG, ADAPTER_NOTE, ADAPTER_WEIGHTS, StageFolder

PIPELINE = ("iql", "sft", "jpo")  # each starts from the one before
Variants = Mapping[str, Mapping[str, Mapping[str, Any]]]  # variant -> stage of the pipeline -> what it changes there


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        kind: `iql`, `sft` or `jpo`.
        variant: that trains it otherwise; None for the method itself.
        after: folders of the stages that it learns from.
    """

    kind: str
    variant: str | None = None
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its folder under the run."""
        return f"{self.kind}_{self.variant}" if self.variant else self.kind

    @property
    def overrides(self) -> list[str]:
        """What `train.py` is told to train it."""
        return [f"stage={self.kind}", *([f"variant={self.variant}"] if self.variant else [])]

    def is_trained(self, run_dir: Path) -> bool:
        """Whether the run has what others take from it: an adapter, or the best checkpoint of a finished selector."""
        return is_trained(self.name, run_dir)


def is_trained(name: str, run_dir: Path) -> bool:
    """The same for the stage in the folder `name`, which may be an adapter that no stage writes."""
    folder = run_dir / name
    if name.split("_")[0] == "iql":  # its best checkpoint is written while it learns
        return (folder / "best.ckpt").is_file() and not StageFolder(folder).is_half_trained
    return all((folder / "adapter" / part).is_file() for part in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, ADAPTER_NOTE))


class StageGraph:
    """All stages that there are, by their names."""

    def __init__(self, variants: Variants) -> None:
        stages = [Stage(kind, None, PIPELINE[max(i - 1, 0) : i]) for i, kind in enumerate(PIPELINE)]
        for variant, changed in variants.items():
            for kind in (kind for kind in PIPELINE if kind in changed):
                before = PIPELINE[max(PIPELINE.index(kind) - 1, 0) : PIPELINE.index(kind)]
                own = [f"{stage}_{variant}" if stage in changed else stage for stage in before]
                stages.append(Stage(kind, variant, tuple(changed[kind].get("after", own))))
        self.stages = {stage.name: stage for stage in stages}

    def needed(self, arms: Sequence[Arm]) -> list[str]:
        """Folders of all stages whose training is in what these arms play with, each after those it learns from."""
        found: dict[str, None] = {}

        def need(name: str) -> None:
            for earlier in self.stages[name].after if name in self.stages else ():
                need(earlier)
            found[name] = None

        for name in (name for arm in arms for name in played_with(arm)):
            need(name)
        return list(found)

    def missing(self, arms: Sequence[Arm], run_dir: Path) -> list[Stage]:
        """The stages that these arms need and the run does not have, each after those that it learns from.

        What a trained stage has learnt from is not needed any more.

        Raises:
            UserError: if an arm's generator is an adapter that is not there and that no stage writes.
        """
        found: dict[str, Stage] = {}

        def need(name: str) -> None:
            if name in found or is_trained(name, run_dir):
                return
            for earlier in self.stages[name].after:
                need(earlier)
            found[name] = self.stages[name]

        for arm in arms:
            for name in played_with(arm):
                if name not in self.stages and not is_trained(name, run_dir):
                    raise UserError(
                        f"arm '{arm.name}': {run_dir / name / 'adapter'} holds no adapter, and no stage writes one "
                        f"there; stages are {', '.join(name for name in self.stages if name != 'iql')}"
                    )
                need(name)
        return list(found.values())


def played_with(arm: Arm) -> list[str]:
    """The folders of the stages that an arm itself loads."""
    selector = ["iql"] if arm.emotion == "iql" else []
    return selector if arm.generator in UNTRAINED else [*selector, arm.generator]
