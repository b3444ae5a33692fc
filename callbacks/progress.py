"""How far a stage is: optimizer steps, time left, the loss and the monitored metric."""

import math
import sys
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from callbacks.throughput import Throughput

LINES = 10  # without a terminal: so many lines over a run, besides those of validations


class TrainingProgress(ProgressBar):
    """One bar for a stage and a line for each validation; without a terminal lines alone, about every tenth of the run.

    The time left is estimated from all the time that the stage took so far, validations included. A resumed run knows
    of the earlier time from the checkpoint (`Throughput`), so that its first estimate is as good as its last one was.

    Args:
        stage: its name, in front of everything.
        metric: the monitored metric; its last and its best value are shown.
        mode: `min` or `max`, which of its values is best.
        refresh_every: optimizer steps between two updates of the bar.
    """

    def __init__(self, stage: str, metric: str, mode: str, refresh_every: int) -> None:
        super().__init__()
        self.stage, self.metric, self.mode, self.refresh_every = stage, metric, mode, refresh_every
        self._enabled = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._started_at = self._shown_at = 0  # optimizer steps
        self._steps: int | None = None  # to the end of training; None where nobody knows
        self._earlier_s = self._began = 0.0
        self._loss: Any = 0.0  # of the current optimizer step so far
        self._step_loss: Any = math.nan
        self._last = self._best = math.nan

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Lightning calls this in every process but the first."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Write above the bar."""
        if not self._enabled:
            return
        text = kwargs.get("sep", " ").join(map(str, args))
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._enabled:
            return
        throughput = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)
        steps = trainer.estimated_stepping_batches  # of all epochs where epochs are what is asked for
        self._steps = int(steps) if math.isfinite(steps) else None
        self._began, self._earlier_s = time.monotonic(), 0.0 if throughput is None else throughput.seconds
        self._started_at = self._shown_at = trainer.global_step
        self._loss, self._step_loss, self._last, self._best = 0.0, math.nan, math.nan, math.nan
        for callback in trainer.callbacks:  # of a resumed run, the best value is in the checkpoint
            if isinstance(callback, ModelCheckpoint) and callback.monitor == self.metric:
                self._best = math.nan if callback.best_model_score is None else float(callback.best_model_score)
        if sys.stderr.isatty():
            wrapped = TextColumn("{task.fields[state]}", table_column=Column())  # on two lines where one is too short
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), wrapped)
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self.stage, total=self._steps, state=self._state(trainer))
            self._refresh(trainer)
            self._bar.start()
        else:
            self.print(f"{self.stage}: {self._state(trainer)}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop
        self._loss = self._loss + outputs["loss"]  # Lightning has divided it by the accumulated batches
        if loop.epoch_loop._should_accumulate():
            return
        self._step_loss, self._loss = trainer.strategy.reduce(self._loss, reduce_op="mean"), 0.0  # over all devices
        if not self._enabled:
            return
        due = trainer.global_step - self._shown_at >= max((self._steps or 0) // LINES, 1)
        if self._bar is not None:
            if trainer.global_step % self.refresh_every == 0:
                self._refresh(trainer)
        elif due and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # a validation has its own line
            self._line(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self.stage} (validating)", refresh=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._enabled or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._last = float(trainer.callback_metrics.get(self.metric, math.nan))
        better = self._last > self._best if self.mode == "max" else self._last < self._best
        if better or (math.isnan(self._best) and not math.isnan(self._last)):
            self._best = self._last
        self._line(trainer)
        if self._bar is not None:
            self._bar.update(self._task, description=self.stage)
            self._refresh(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> None:
        if self._bar is not None:
            self._refresh(trainer)
            self._bar.stop()
            self._bar = None

    def _line(self, trainer: L.Trainer) -> None:
        self._shown_at = trainer.global_step
        self.print(f"{self.stage}: {self._state(trainer)}")

    def _refresh(self, trainer: L.Trainer) -> None:
        assert self._bar is not None
        self._bar.update(self._task, completed=trainer.global_step, state=self._state(trainer))

    def _state(self, trainer: L.Trainer) -> str:
        """`optimizer step 4/32, 0:01:02 elapsed, 0:07:14 left, loss 2.31, val/loss 2.19 (best 2.15)`."""
        total = "?" if self._steps is None else str(self._steps)
        spent = self._earlier_s + time.monotonic() - self._began
        parts = [f"optimizer step {trainer.global_step}/{total}", f"{clock(spent)} elapsed"]
        left = self._left(trainer, spent)
        if left is not None:
            parts.append(f"{clock(left)} left")
        loss = float(self._step_loss)
        if not math.isnan(loss):
            parts.append(f"loss {loss:.4g}")
        if not math.isnan(self._last):
            parts.append(f"{self.metric} {self._last:.4g} (best {self._best:.4g})")
        elif not math.isnan(self._best):  # right after a resume
            parts.append(f"{self.metric} best {self._best:.4g}")
        return ", ".join(parts)

    def _left(self, trainer: L.Trainer, spent: float) -> float | None:
        """Seconds to the last step; None where nothing is known yet."""
        done = trainer.global_step
        if not self._earlier_s:  # a resumed run without `Throughput` knows of its own steps alone
            done -= self._started_at
        if self._steps is None or done <= 0:
            return None
        return spent / done * (self._steps - trainer.global_step)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, `0:01:05`."""
    return str(timedelta(seconds=round(seconds)))
