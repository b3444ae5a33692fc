"""What a study trains and plays: its conditions, for every training seed, each with folders of its own.

    checkpoints/<run>                                   the run: the first training seed, no condition
                     /seeds/<seed>                      another training seed
                     /studies/<study>/<condition>       what a condition trains (and /seeds/<seed> in it)
                     /<study>/<condition>               what it plays (and /seed-<seed> in it)

A condition is a label with overrides for training and overrides for playing. One that trains nothing plays the run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.errors import UserError

STAGES = ("iql", "sft", "jpo")  # in the order of the pipeline; each starts from the one before
ALL = "all"


@dataclass(frozen=True)
class Condition:
    """One condition of a study.

    Attributes:
        label: what reports call it; empty where a study has only one.
        train: stage, or `all`, -> overrides of train.py. The stages before the first one named are the run's own.
        play: overrides of evaluate.py.
    """

    label: str = ""
    train: Mapping[str, Sequence[str]] | None = None
    play: Sequence[str] = ()

    def __post_init__(self) -> None:
        for stage in self.train or ():
            if stage not in (*STAGES, ALL):
                raise UserError(f"study condition '{self.label}': train.{stage} is no stage; use {', '.join(STAGES)}")

    @property
    def slug(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.+-]+", "-", self.label).strip("-")

    def overrides(self, stage: str) -> list[str]:
        """Overrides of train.py for one stage."""
        train = self.train or {}
        return [*train.get(ALL, ()), *train.get(stage, ())]

    @property
    def shared(self) -> tuple[str, ...]:
        """The stages that the condition takes over from the run as they are."""
        train = self.train or {}
        if ALL in train:
            return ()
        return STAGES[: min((STAGES.index(stage) for stage in train), default=len(STAGES))]


@dataclass(frozen=True)
class StudyRun:
    """One condition with one training seed: what is trained where, and where its episodes go.

    Attributes:
        run_dir: folder of the stages that play.
        shared_from: folder of the run whose first stages the condition takes over; `run_dir` where it trains nothing.
        stage_dir: folder of the episodes.
    """

    condition: Condition
    training_seed: int
    run_dir: Path
    shared_from: Path
    stage_dir: Path

    @property
    def title(self) -> str:
        """For progress and messages."""
        return self.condition.label or self.stage_dir.name


def conditions_of(
    study: Mapping[str, Any], arms: Sequence[str], wanted: Sequence[str] | None = None
) -> list[Condition]:
    """The conditions of a study's configuration; one without a label where it names none.

    Args:
        study: `conditions` maps labels to {train, play}; `per_arm` names a key of evaluate.py instead, which takes
            each arm in turn.
        wanted: labels of those to play, in the study's order; None plays all.

    Raises:
        UserError: if two labels would share a folder, or a wanted one is not there.
    """
    if key := study.get("per_arm"):
        found = [Condition(arm, play=[f"{key}='{arm}'"]) for arm in arms]
    else:
        found = [Condition(label, **(entry or {})) for label, entry in (study.get("conditions") or {}).items()]
    labels = [condition.label for condition in found]
    if unknown := [label for label in wanted or () if label not in labels]:
        raise UserError(f"conditions: this study has no '{unknown[0]}'; it has {', '.join(labels) or 'none'}")
    if wanted is not None:
        found = [condition for condition in found if condition.label in wanted]
    slugs = [condition.slug for condition in found]
    if twice := [slug for slug in slugs if slugs.count(slug) > 1 or not slug]:
        raise UserError(f"study conditions: two labels, or an empty one, make the folder '{twice[0]}'; rename one")
    return found or [Condition()]


def training_seeds(seeds: int | Sequence[int], first: int) -> list[int]:
    """`seeds=3` is three seeds from `seed` on, a list is itself; the first one is the run's own.

    Raises:
        UserError: if there is none, one comes twice, or a list does not begin with the run's seed.
    """
    found = list(range(first, first + seeds)) if isinstance(seeds, int) else list(seeds)
    if not found or len(set(found)) < len(found):
        raise UserError(f"seeds={seeds}: give at least one training seed, each once")
    if found[0] != first:
        raise UserError(f"seeds={seeds}: the first training seed is the run's own, seed={first}")
    return found


def parts_of(
    study: str, conditions: Sequence[Condition], seeds: Sequence[int], run: Path, played: Path
) -> list[StudyRun]:
    """Every condition with every training seed, conditions first, so that a half-played study compares conditions.

    Args:
        study: its name.
        run: folder of the run.
        played: folder of the study's episodes.
    """
    return [
        _part(study, condition, seed, k == 0, run, played) for k, seed in enumerate(seeds) for condition in conditions
    ]


def _part(study: str, condition: Condition, seed: int, first: bool, run: Path, played: Path) -> StudyRun:
    of_seed = run if first else run / "seeds" / str(seed)
    home = of_seed
    if condition.train:
        home = run / "studies" / study / condition.slug
        home = home if first else home / "seeds" / str(seed)
    folder = played / condition.slug if condition.label else played
    return StudyRun(condition, seed, home, of_seed, folder if first else folder / f"seed-{seed}")
