"""Train one stage of EmoDistill: `python train.py stage=iql|sft|jpo [key=value ...]`.

Running the same command again continues an unfinished stage. See `configs/train.yaml` for every key.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from commands import entry
from commands.building import read_variants, register_variants
from emodistill.lazy import loading

if TYPE_CHECKING:
    import lightning as L

WORK = {
    "iql": "trains the selector by Implicit Q-Learning: which emotion to show",
    "sft": "fine-tunes the language model on chosen turns of the corpus: how to say it",
    "jpo": "improves its replies by Judge Policy Optimization",
}


def train(cfg: DictConfig) -> "L.Trainer | None":
    """Build the stage that `cfg` describes and fit it; None where it was finished before."""
    from emodistill.checks import is_whole
    from emodistill.errors import UserError
    from emodistill.files import exclusive
    from emodistill.language_models.model_files import quick_check
    from emodistill.runs import StageFolder, check_earlier_stages, selectors_of, weights_hash

    folder = StageFolder(Path(cfg.stage_dir))
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a DictConfig gives a dict
    first = owns_folder(cfg)
    if not (is_whole(cfg.trainer.max_steps) or is_whole(cfg.trainer.max_epochs)):
        raise UserError(
            f"trainer.max_steps={cfg.trainer.max_steps}: give a number of steps, or -1 and one of epochs with "
            "trainer.max_epochs=..."
        )
    if not is_whole(cfg.monitor.save_every) or cfg.monitor.save_every < 1:
        raise UserError(f"monitor.save_every={cfg.monitor.save_every}: give a number of steps, from 1")
    if cfg.monitor.mode not in ("min", "max"):
        raise UserError(f"monitor.mode={cfg.monitor.mode}: use min or max, whichever is better of {cfg.monitor.metric}")
    folder.state(config, cfg.resume)  # a mistake that can be seen now is named before anything is imported or written
    check_earlier_stages(config)
    entry.check_files(cfg)
    if cfg.name != "iql":
        quick_check(cfg.model.base_model)
    with exclusive(folder.path) if first else nullcontext():
        try:
            state = folder.state(config, cfg.resume)
            if state == "finished":
                selectors = {key: path for key, path in selectors_of(config).items() if path.is_file()}
                folder.hold_to({key: weights_hash(path) for key, path in selectors.items()}, record=False)
                if first:
                    print(f"{folder.path} is finished ({folder.summary()['steps']} steps); nothing to do")
                return None
            if first:
                steps, epochs = cfg.trainer.max_steps, cfg.trainer.max_epochs
                length = f"{steps:,} steps" if is_whole(steps) else f"{epochs} epoch{'s' * (epochs != 1)}"
                seconds = steps * cfg.size.seconds[cfg.name] if cfg.size.seconds and is_whole(steps) else None
                entry.announce(f"{cfg.name} ({folder.path}, {length}) {WORK[cfg.name]}", seconds)
            checkpoint = folder.last if state == "continue" else None
            trainer = fit(cfg, checkpoint, lambda: folder.record(config) if first else None)
            if trainer.interrupted:
                raise KeyboardInterrupt
            if first:
                metrics = {name: round(float(value), 6) for name, value in sorted(trainer.callback_metrics.items())}
                folder.finish({"steps": trainer.global_step, "best": best_of(trainer), **metrics})
                print(f"{folder.path} is finished after {trainer.global_step} steps")
            return trainer
        finally:  # while the folder is still held
            if first:
                folder.discard_if_unused()


def owns_folder(cfg: DictConfig) -> bool:
    """Whether this is the process that writes: the first of those that train together, or one alone."""
    from emodistill.runs import is_first_process

    alone = cfg.trainer.devices == 1 and cfg.trainer.num_nodes == 1
    return alone or is_first_process()


def fit(cfg: DictConfig, checkpoint: Path | None, on_start: Callable[[], None]) -> "L.Trainer":
    """Instantiate everything and call `Trainer.fit`, from `checkpoint` if there is one.

    Args:
        on_start: called before the first step: a configuration that never gets there must not claim the folder.

    Raises:
        UserError: if `trainer.max_time` was over before the last step.
    """
    from emodistill.errors import UserError

    with loading():
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        entry.use_threads(cfg)
        trainer, learner, data = build(cfg, checkpoint, on_start)
    try:
        trainer.fit(learner, data, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:  # raised after the first validation
        if f"monitor='{cfg.monitor.metric}'" not in str(error):
            raise
        raise UserError(
            f"monitor.metric={cfg.monitor.metric} is no curve of this stage, which has "
            f"{', '.join(sorted(trainer.callback_metrics))}; delete {cfg.stage_dir} and begin again with one of them"
        ) from error
    except SystemExit:  # Lightning 2.6 leaves with status 1 after Ctrl-C; who called says what that means
        if not trainer.interrupted:
            raise
    from callbacks.adapter_export import is_out_of_time  # with Lightning, which `build` has imported

    if is_out_of_time(trainer):
        raise UserError(
            f"{cfg.stage_dir} stopped after {trainer.global_step} steps, when trainer.max_time was over; run it again "
            "with more of it, or without it, to continue"
        )
    return trainer


def build(
    cfg: DictConfig, checkpoint: Path | None, on_start: Callable[[], None]
) -> "tuple[L.Trainer, L.LightningModule, L.LightningDataModule]":
    """The trainer, the learner and the data of a stage; the arguments are those of `fit`."""
    import lightning as L
    from hydra.utils import instantiate
    from lightning.pytorch.callbacks import LambdaCallback

    from emodistill.learners.devices import SharedSteps, strategy_of
    from emodistill.runs import StageFolder, read_checkpoint, selectors_of, weights_hash

    if checkpoint:
        if owns_folder(cfg):
            print(f"continuing {checkpoint}")
        read_checkpoint(checkpoint, cfg.name, f"delete {checkpoint.parent} to start this stage again")
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data, _convert_="all")
    learner = instantiate(cfg.learner, _convert_="all")  # plain containers: checkpoints stay weights_only-safe
    callbacks = [instantiate(callback, _convert_="all") for callback in cfg.callbacks.values() if callback]
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a DictConfig
    used = {key: weights_hash(path) for key, path in selectors_of(config).items()}

    def check_continues(*_: Any, **__: Any) -> None:  # in `setup`, when the data are read
        if checkpoint:
            data.provenance.check_continues(Path(cfg.stage_dir))
            StageFolder(Path(cfg.stage_dir)).hold_to(used, record=False)

    start = LambdaCallback(
        setup=check_continues,
        on_train_start=lambda trainer, _: trainer.is_global_zero and begin(on_start, data, used, cfg),
    )
    shares = SharedSteps()
    given = {"logger": instantiate(cfg.logger), "strategy": strategy_of(cfg.trainer.strategy)}
    trainer: L.Trainer = instantiate(cfg.trainer, **given, callbacks=[start, shares, *callbacks], _convert_="all")
    shares.divide(trainer, data.dataset.loader, data.dataset.batch_size)
    return trainer, learner, data


def begin(on_start: Callable[[], None], data: Any, used: Mapping[str, str], cfg: DictConfig) -> None:
    """Take the folder, and note in it what is trained on."""
    from emodistill.runs import StageFolder

    on_start()
    StageFolder(Path(cfg.stage_dir)).hold_to(used)
    entry.log_to(Path(cfg.stage_dir) / "train.log")
    data.provenance.write(Path(cfg.stage_dir))


def best_of(trainer: "L.Trainer") -> float | None:
    """The monitored metric at the best validation; None where no checkpoint is kept by a metric."""
    scores = [getattr(callback, "best_model_score", None) for callback in trainer.checkpoint_callbacks]
    return next((float(score) for score in scores if score is not None), None)


def check_variant(variant: str, stage: str) -> None:
    """Refuse a variant that does not train this stage otherwise: it would be the run's own stage."""
    from emodistill.errors import UserError

    stages = read_variants().get(variant)
    if stages is not None and stage not in stages:
        raise UserError(f"variant={variant} changes nothing in stage={stage}; it has {', '.join(stages)}")


def objective(cfg: DictConfig) -> float | None:
    """What Hydra's sweepers optimise: the monitored metric (`monitor.metric`) of the finished stage at its best."""
    from emodistill.runs import StageFolder

    folder = StageFolder(Path(cfg.stage_dir))
    return folder.summary().get("best") if folder.finished_file.is_file() else None


register_variants()


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    with entry.explained(), entry.paid(cfg):
        check_variant(HydraConfig.get().runtime.choices.variant, cfg.name)
        train(cfg)
    return objective(cfg)


if __name__ == "__main__":
    entry.run(main, "train", __doc__ or "")
