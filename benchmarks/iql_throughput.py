"""IQL updates per second: the learner through Lightning, as `train.py` runs it, against a bare torch loop.

    python benchmarks/iql_throughput.py [--updates 1500] [--repeats 5]

Both sides update the same networks with the same losses, optimizer, clipping and batch size on the same table of
transitions, in one process and in turns, so that whatever else the machine does falls on both. The Lightning side has
TensorBoard on and writes the learner's figures every `--log-every` steps; the bare side writes nothing. Each repeat is
timed after a warm-up of `WARM_UP` updates; the ratio is taken pair by pair, and given twice: by the clock on the wall,
and by the processor time of this process, which says the same on an idle machine and more on a busy one.
"""

import argparse
import copy
import logging
import tempfile
import time
import warnings
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger

from emodistill.data.batches import TransitionBatches
from emodistill.learners.iql import IQLLearner, Transitions
from emodistill.networks import TwinQ, mlp

OBSERVATION_DIM, EMOTIONS, HIDDEN, ROWS, WARM_UP = 63, 28, [256, 256], 20_000, 200
LEARNING_RATE, DISCOUNT, EXPECTILE, INVERSE_TEMPERATURE, POLYAK, CLIP = 3e-4, 0.99, 0.7, 3.0, 0.005, 1.0


def transitions(seed: int = 0) -> Transitions:
    """A table of the shape of the bundled corpus; its content does not matter for speed."""
    generator = torch.Generator().manual_seed(seed)
    return Transitions(
        torch.randn(ROWS, OBSERVATION_DIM, generator=generator),
        torch.randint(EMOTIONS, (ROWS,), generator=generator),
        torch.randn(ROWS, generator=generator),
        torch.randn(ROWS, OBSERVATION_DIM, generator=generator),
        (torch.rand(ROWS, generator=generator) < 0.15).float(),
    )


def clocks() -> np.ndarray:
    """Wall and processor time in seconds, (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


def bare(table: Transitions, batch_size: int, updates: int) -> np.ndarray:
    """Updates per second, by either clock, of the loop one would write by hand."""
    q, v = TwinQ(OBSERVATION_DIM, EMOTIONS, HIDDEN), mlp(OBSERVATION_DIM, HIDDEN, 1)
    policy, target_q = mlp(OBSERVATION_DIM, HIDDEN, EMOTIONS), copy.deepcopy(q).requires_grad_(False)
    heads = (q, v, policy)
    optimizer = torch.optim.Adam([{"params": head.parameters()} for head in heads], lr=LEARNING_RATE, fused=True)
    started = clocks()
    for step in range(WARM_UP + updates):
        if step == WARM_UP:
            started = clocks()
        index = torch.randint(ROWS, (batch_size,))
        observation, action, reward, following, terminal = (column[index] for column in table)
        with torch.no_grad():
            goal = reward + DISCOUNT * (1.0 - terminal) * v(following).squeeze(-1)
            pessimistic = target_q(observation, action)
        advantage = pessimistic - v(observation).squeeze(-1)
        v_loss = ((EXPECTILE - (advantage < 0).float()).abs() * advantage.square()).mean()
        weight = (INVERSE_TEMPERATURE * advantage.detach()).exp().clamp(max=100.0)
        policy_loss = (weight * F.cross_entropy(policy(observation), action, reduction="none")).mean()
        first, second = q.both(observation, action)
        q_loss = F.mse_loss(first, goal) + F.mse_loss(second, goal)
        optimizer.zero_grad()
        (q_loss + v_loss + policy_loss).backward()
        for head in heads:
            torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target_q.parameters(), q.parameters(), strict=True):
                slow.lerp_(fast, POLYAK)
    return updates / (clocks() - started)


class Stopwatch(L.Callback):
    """Updates per second after the warm-up."""

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == WARM_UP:
            self.started = clocks()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.speed = (trainer.global_step - WARM_UP) / (clocks() - self.started)


def through_lightning(table: Transitions, batch_size: int, updates: int, log_every: int) -> np.ndarray:
    """Updates per second, by either clock, of the learner under a trainer that logs to TensorBoard."""
    learner = IQLLearner(
        observation_dim=OBSERVATION_DIM,
        num_emotions=EMOTIONS,
        hidden_dims=HIDDEN,
        discount=DISCOUNT,
        expectile=EXPECTILE,
        inverse_temperature=INVERSE_TEMPERATURE,
        max_advantage_weight=100.0,
        polyak=POLYAK,
        learning_rates={"q": LEARNING_RATE, "v": LEARNING_RATE, "policy": LEARNING_RATE},
    )
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_steps=WARM_UP + updates,
            accelerator="cpu",
            gradient_clip_val=CLIP,
            log_every_n_steps=log_every,
            logger=TensorBoardLogger(folder, name="", version=""),
            callbacks=[watch],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(learner, TransitionBatches(table, batch_size, batches_per_epoch=1000, seed=0))
    return watch.speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=1500, help="timed updates a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    table, ratios = transitions(), []
    for repeat in range(args.repeats):
        by_hand = bare(table, args.batch_size, args.updates)
        trained = through_lightning(table, args.batch_size, args.updates, args.log_every)
        ratios.append(trained / by_hand)
        speeds = f"bare {by_hand[0]:.0f}/s, Lightning {trained[0]:.0f}/s"
        print(f"{repeat + 1}: {speeds}, ratio {ratios[-1][0]:.3f} (processor {ratios[-1][1]:.3f})", flush=True)
    for name, column in zip(("wall", "processor"), np.array(ratios).T, strict=True):
        print(f"ratio by {name} time: median {np.median(column):.3f}, from {column.min():.3f} to {column.max():.3f}")


if __name__ == "__main__":
    main()
