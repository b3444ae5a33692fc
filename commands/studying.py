"""Conditions of a study as configurations, and the training of what they lack; `evaluate.py` plays them."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from emodistill.evaluation.stage_graph import Stage
    from emodistill.studies.study import StudyRun

ROOT = Path(__file__).resolve().parents[1]
PASSED = {  # what a user says of an evaluation and means of the training as well
    "run",
    "size",
    "model",
    "counterparty",
    "scenarios",
    "speaker",
    "offers",
    "data",
    "endpoint",
    "judge",
    "vocabulary",
    "domains",
    "schedule",
}
OF_STUDY = ("train", "study", "seeds", "conditions")  # keys that change no episode


def plan(cfg: DictConfig) -> "list[StudyRun]":
    """Every condition with every training seed; none where the study plays nothing."""
    from emodistill.studies.study import conditions_of, parts_of, training_seeds

    if not cfg.study.plays:
        return []
    study: Any = OmegaConf.to_container(cfg.study, resolve=True)
    seeds = cfg.seeds if isinstance(cfg.seeds, int) else list(cfg.seeds)
    conditions = conditions_of(study, list(cfg.arms), None if cfg.conditions is None else list(cfg.conditions))
    found = training_seeds(seeds, cfg.seed)
    return parts_of(cfg.study.name, conditions, found, Path(cfg.run_dir), Path(cfg.stage_dir))


def configured(cfg: DictConfig, part: "StudyRun", overrides: Sequence[str]) -> DictConfig:
    """The configuration of one part: the user's own overrides, then those of the condition."""
    if not part.condition.label and str(part.stage_dir) == str(cfg.stage_dir):
        return cfg
    folders = [f"run_dir='{part.run_dir}'", f"stage_dir='{part.stage_dir}'", f"seed={part.training_seed}"]
    here = GlobalHydra.instance().is_initialized()
    with nullcontext() if here else initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("evaluate", overrides=[*overrides, *part.condition.play, *folders])


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """The configuration that a folder of episodes is begun with: what changes an episode, and no more."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a DictConfig
    return {key: value for key, value in config.items() if key not in OF_STUDY}


def ensure_trained(
    cfg: DictConfig, parts: "Sequence[StudyRun]", configs: Sequence[DictConfig], given: Sequence[str]
) -> None:
    """Train what the parts lack, with `train=missing`; or else stop and name the commands.

    Raises:
        UserError: if something is missing and may not be trained, or training fails.
    """
    from emodistill.errors import UserError
    from emodistill.evaluation.stage_graph import train_missing

    if cfg.train not in ("never", "missing"):
        raise UserError(f"train={cfg.train}: use never (stop where something is missing) or missing (train it)")
    for part in parts:
        share(part)  # before anything is trained: a stage of a condition starts from those that it takes over
    if cfg.train == "missing":
        for part, config in zip(parts, configs, strict=True):
            for stage, passed, run_dir in lacking(part, config, given):
                train_missing([stage], passed, run_dir, ROOT / "train.py")
        return
    needed = [entry for part, config in zip(parts, configs, strict=True) for entry in lacking(part, config, given)]
    if needed:
        raise UserError(refusal(needed))


def lacking(part: "StudyRun", cfg: DictConfig, given: Sequence[str]) -> "list[tuple[Stage, list[str], Path]]":
    """Stages that a part needs and nobody has trained, each with the overrides and the folder of its run."""
    from emodistill.emotions.vocabulary import load_vocabulary
    from emodistill.evaluation.arms import parse_arms
    from emodistill.evaluation.stage_graph import is_there, missing_stages

    names = [*cfg.arms, *([cfg.opponent] if cfg.opponent and cfg.opponent not in cfg.arms else [])]
    arms = parse_arms(names, load_vocabulary(cfg.vocabulary))
    own = [word for word in given if word.lstrip("+~").split("=")[0].split(".")[0] in PASSED]
    found = []
    for stage in missing_stages(arms, part.run_dir):
        kind = stage.overrides[0].removeprefix("stage=")
        shared = kind in part.condition.shared and part.run_dir != part.shared_from
        run_dir = part.shared_from if shared else part.run_dir
        if not (shared and is_there(stage.name, run_dir)):
            more = [] if shared else part.condition.overrides(kind)
            at = [f"run_dir={run_dir}"] if str(run_dir) != f"checkpoints/{cfg.run}" else []
            found.append((stage, [*own, *at, f"seed={part.training_seed}", *more], run_dir))
    return found


def share(part: "StudyRun") -> None:
    """Put the stages that a condition takes over from its run beside those that it trains, as links.

    A stage that is still to be trained gets its link as well, so that the commands of `refusal` work by hand.
    """
    if part.run_dir == part.shared_from:
        return
    part.run_dir.mkdir(parents=True, exist_ok=True)
    for stage in part.condition.shared:
        link = part.run_dir / stage
        if not link.is_symlink() and not link.exists():
            link.symlink_to((part.shared_from / stage).resolve(), target_is_directory=True)


def refusal(needed: "Sequence[tuple[Stage, list[str], Path]]") -> str:
    """One sentence with the commands that train what is missing."""
    from emodistill.evaluation.stage_graph import commands

    lines = dict.fromkeys(commands([stage], passed)[0] for stage, passed, _ in needed)
    names = ", ".join(dict.fromkeys(f"{run_dir}/{stage.name}" for stage, _, run_dir in needed))
    shown = " && ".join(list(lines)[:8]) + (f" && ... ({len(lines) - 8} more)" if len(lines) > 8 else "")
    return f"{names} not trained yet; give train=missing to have that done now, or run: {shown}"
