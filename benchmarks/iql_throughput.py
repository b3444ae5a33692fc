"""IQL updates per second: the command `python train.py stage=iql` as it is, against a bare torch loop.

    python benchmarks/iql_throughput.py [--updates 3000] [--repeats 5]

Both sides update networks of one shape with the same losses, optimizer (Adam in one kernel), clipping and batch size,
on one thread, in turns, so that whatever else the machine does falls on both. The bare loop is plain PyTorch, uses
nothing of this project but the type of a batch, and writes nothing. The command logs to TensorBoard, saves checkpoints
and shows its progress as configured. Each side is timed after `WARM_UP` updates, and the ratio is taken pair by pair.
The first run builds the bundled corpus where it is not in the cache yet.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from emodistill.learners.iql import Transitions

ROOT = Path(__file__).resolve().parents[1]
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


def plain(outputs: int) -> nn.Sequential:
    """A network as one writes it."""
    layers = [nn.Linear(OBSERVATION_DIM, HIDDEN[0]), nn.ReLU(), nn.Linear(HIDDEN[0], HIDDEN[1]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN[1], outputs))


def bare(table: Transitions, batch_size: int, updates: int) -> float:
    """Updates per second of the loop one would write by hand."""
    q, v, policy = nn.ModuleList([plain(EMOTIONS), plain(EMOTIONS)]), plain(1), plain(EMOTIONS)
    target_q = copy.deepcopy(q).requires_grad_(False)
    heads = (q, v, policy)
    optimizer = torch.optim.Adam([{"params": head.parameters()} for head in heads], lr=LEARNING_RATE, fused=True)
    started = time.perf_counter()
    for step in range(WARM_UP + updates):
        if step == WARM_UP:
            started = time.perf_counter()
        index = torch.randint(ROWS, (batch_size,))
        observation, action, reward, following, terminal = (column[index] for column in table)
        taken = action.unsqueeze(-1)
        with torch.no_grad():
            goal = reward + DISCOUNT * (1.0 - terminal) * v(following).squeeze(-1)
            pessimistic = torch.minimum(*(net(observation).gather(-1, taken).squeeze(-1) for net in target_q))
        advantage = pessimistic - v(observation).squeeze(-1)
        v_loss = ((EXPECTILE - (advantage < 0).float()).abs() * advantage.square()).mean()
        weight = (INVERSE_TEMPERATURE * advantage.detach()).exp().clamp(max=100.0)
        policy_loss = (weight * F.cross_entropy(policy(observation), action, reduction="none")).mean()
        first, second = (net(observation).gather(-1, taken).squeeze(-1) for net in q)
        q_loss = F.mse_loss(first, goal) + F.mse_loss(second, goal)
        optimizer.zero_grad()
        (q_loss + v_loss + policy_loss).backward()
        for head in heads:
            torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target_q.parameters(), q.parameters(), strict=True):
                slow.lerp_(fast, POLYAK)
    return updates / (time.perf_counter() - started)


def through_command(batch_size: int, updates: int) -> float:
    """Updates per second of `python train.py stage=iql` with all that it does besides: callbacks, curves, checkpoints.

    Read from its own curve of throughput, without the `WARM_UP` first updates. Start and validation are not in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        steps = WARM_UP + updates
        options = [f"run_dir={folder}", f"size.iql_steps={steps}", f"size.iql_val_every={steps}"]
        command = [sys.executable, "train.py", "stage=iql", *options, f"data.dataset.batch_size={batch_size}"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        curves = EventAccumulator(f"{folder}/iql/tensorboard")
        curves.Reload()
        points = curves.Scalars("throughput/steps_per_second")
    steps_between = np.diff([0, *(point.step for point in points)])
    timed = [(n, n / point.value) for n, point in zip(steps_between, points, strict=True) if point.step > WARM_UP]
    counts, seconds = np.array(timed).sum(0)
    return float(counts / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=3000, help="timed updates a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as configs/stage/iql.yaml
    table, ratios = transitions(), []
    for repeat in range(args.repeats):
        by_hand, trained = bare(table, args.batch_size, args.updates), through_command(args.batch_size, args.updates)
        ratios.append(trained / by_hand)
        print(f"{repeat + 1}: bare {by_hand:.0f}/s, train.py {trained:.0f}/s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"ratio: median {np.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
