"""Training on several devices: what each of them learns from, and a base that is spread over all of them.

**An optimizer step has the same rows on any number of devices.** `accumulate_grad_batches` and `val_check_interval` of
the configuration count the batches of all devices together. The batches of an epoch have one order, whoever asks, and
the devices take them in turn: of a step of 8 batches, two devices take 4 each. The selector's batch, which is a step of
its own, is cut into equal parts. Where an epoch's last step has fewer batches than there are devices, some repeat a
batch with weight 0, so that all of them compute as often.

**The loss is a mean over the step.** Gradients are averaged over devices, so each device's share has to be weighted:
SFT weights by tokens (the mean over all supervised tokens of the step), JPO averages batches (each counts alike,
whichever device has it), IQL averages parts of equal size.

What differs from one device is rounding, and what is drawn from a process's own generator: the masks of LoRA dropout,
which is off by default.
"""

from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import Optimizer

from emodistill.data.batches import ResumableLoader
from emodistill.errors import UserError
from emodistill.policy.sharding import spread_like, whole

if TYPE_CHECKING:
    from emodistill.policy.expression_policy import ExpressionPolicy

STRATEGIES = ("auto", "ddp", "fsdp")


def strategy_of(name: str) -> Any:
    """What Lightning's trainer takes for a strategy's name.

    Args:
        name: `auto` (DDP where there are several devices), `ddp` (every device holds the whole model) or `fsdp` (every
            device holds a part, see `policy.sharding`).

    Raises:
        UserError: if it is none of these.
    """
    if name not in STRATEGIES:
        raise UserError(f"trainer.strategy={name}: choose {', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}")
    return FullySharded() if name == "fsdp" else name


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all devices; checkpoints are those of one device, weights and optimizer gathered."""

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The learned weights, whole, in every process."""
        assert self.lightning_module is not None
        return {name: whole(tensor) for name, tensor in self.lightning_module.state_dict().items()}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        loaded: dict[str, Any] = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        return loaded

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        assert self.lightning_module is not None
        own, saved = self.lightning_module.state_dict(), checkpoint["state_dict"]
        spread = {name: spread_like(tensor, own.get(name, tensor)) for name, tensor in saved.items()}
        self.lightning_module.load_state_dict(spread, strict=strict)

    def optimizer_state(self, optimizer: Optimizer | LightningOptimizer) -> dict[str, Any]:
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        found = plain.state_dict()
        state = {number: {key: whole(value) for key, value in own.items()} for number, own in found["state"].items()}
        return found | {"state": state}

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                number: {
                    key: spread_like(value, parameters[number]) if value.shape == parameters[number].shape else value
                    for key, value in own.items()
                }
                for number, own in saved["state"].items()
            }
            optimizer.load_state_dict(saved | {"state": state})


def build_policy(learner: L.LightningModule, **settings: Any) -> "ExpressionPolicy":
    """The expression policy of a learner, spread over the devices where its trainer wants that.

    Then the processes of a machine take turns, so that its memory holds one whole base at a time.

    Args:
        settings: of `ExpressionPolicy`.
    """
    from emodistill.policy.expression_policy import ExpressionPolicy  # the selector's stage needs none of its packages

    mesh = learner.device_mesh
    if mesh is None:
        return ExpressionPolicy(**settings)
    for turn in range(learner.trainer.num_devices):
        if turn == learner.trainer.local_rank:
            policy = ExpressionPolicy(**settings)
            policy.shard(mesh["data_parallel"])
        learner.trainer.strategy.barrier()
    return policy


class SharedSteps(L.Callback):
    """Shares an optimizer step out among the devices, and lets a run go on with another number of them."""

    def __init__(self) -> None:
        self.at_once = 1  # batches that are learnt from at the same time

    def divide(self, trainer: L.Trainer, loader: type[ResumableLoader], batch_size: int) -> None:
        """Give each device its share; called once, before training.

        Raises:
            UserError: if the devices cannot share a step evenly, or `fsdp` is asked for networks that are small.
        """
        devices = trainer.world_size
        if loader.split_batches:
            if isinstance(trainer.strategy, FullySharded):
                raise UserError("trainer.strategy=fsdp: the selector's networks are small; leave it out for stage=iql")
            if batch_size % devices:
                raise UserError(
                    f"{devices} devices cannot share a batch of {batch_size} rows evenly; set data.dataset.batch_size "
                    "to a multiple of their number"
                )
            return
        if trainer.accumulate_grad_batches % devices:
            raise UserError(
                f"{devices} devices cannot share the {trainer.accumulate_grad_batches} batches of an optimizer step "
                "evenly; set trainer.accumulate_grad_batches to a multiple of their number, and "
                f"data.dataset.batch_size (now {batch_size}) so that the product stays what it is"
            )
        self.at_once = devices
        trainer.accumulate_grad_batches //= devices
        if isinstance(trainer.val_check_interval, int):
            trainer.val_check_interval = -(-trainer.val_check_interval // devices)

    def state_dict(self) -> dict[str, Any]:
        return {"at_once": self.at_once}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count the batches that were served as this number of devices would have counted them."""
        before = checkpoint["callbacks"].get(self.state_key, {"at_once": 1})["at_once"]
        if before != self.at_once:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set outside of its class body
            batches = data.dataset.train_batches(data.seed).batches
            served = checkpoint[type(data).__qualname__]["served"]
            recount(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"], served, batches, before, self.at_once)


def recount(progress: dict[str, Any], served: int, batches: int, before: int, now: int) -> None:
    """Lightning's progress in an epoch and in all of them, with `now` batches at once where there were `before`.

    Args:
        served: batches of the epoch that all devices together were given.
        batches: of an epoch.
    """
    length_before, length = -(-batches // before), -(-batches // now)
    epochs = (progress["total"]["ready"] - progress["current"]["ready"]) // length_before
    for name, earlier in (("current", 0), ("total", epochs * length)):
        open_batches = progress[name]["processed"] - progress[name]["completed"]  # a checkpoint may end a batch early
        ready = earlier - (-served // now)
        progress[name] |= {"ready": ready, "started": ready, "processed": ready, "completed": ready - open_batches}


def gather(own: Any) -> list[Any]:
    """What each process has, by rank; a list of one where there is one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return found
