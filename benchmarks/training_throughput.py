"""SFT and JPO as `train.py` runs them, side by side with another checkout of this project.

    python benchmarks/training_throughput.py --run checkpoints/demo [--steps 3]
        [--against ../other-checkout --their-run ../other-checkout/checkpoints/demo]

A run needs a finished `stage=iql`, and for JPO `stage=sft` (`make demo` makes both); it is only read. Each checkout
trains in a process of its own with its own configuration, and takes its optimizer steps in turn with the other, so that
whatever else the machine does falls on both. What is timed is the command's own loop with its callbacks: sampling,
judging, curves and all. The first step and the first validation of each are not counted.

Tokens are those of the chats, padding left out; the share of the peak is 4 operations a weight and token (forward, and
backward to the activations) over what a bfloat16 matrix product of the model's shape reaches in the same process.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

CONTEXTS = 24  # of a validation of JPO
SETTINGS = {
    "sft": {"size.validation_chats": 4, "size.validation_contexts": 0},
    "jpo": {"size.validation_contexts": CONTEXTS},
}


class Meter(L.Callback):
    """In the process that trains: waits for a word before each step and validation, and tells what it took."""

    def __init__(self) -> None:
        self.tokens = self.learnt = self.turns = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.tokens = self.learnt = self.turns = 0
            self._wait("step")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if hasattr(pl_module, "amounts"):  # of JPO: its batches are contexts
            self.turns += pl_module.amounts[0]
            self.learnt += pl_module.amounts[1]
        else:
            chats = getattr(batch, "chats", batch)
            self.tokens += int(chats.attention_mask.sum())
            self.learnt += int((chats.utterance >= 0).sum())
            self.turns += int(chats.utterance.max()) + 1
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._tell()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._wait("validation")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell()

    def _wait(self, kind: str) -> None:
        print(json.dumps({"ready": kind}), flush=True)
        sys.stdin.readline()
        self.began, self.busy = time.perf_counter(), time.process_time()

    def _tell(self) -> None:
        took = {"seconds": time.perf_counter() - self.began, "cpu_seconds": time.process_time() - self.busy}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        counts = {"tokens": self.tokens, "learnt": self.learnt, "turns": self.turns, "memory_gib": memory}
        print(json.dumps(took | counts), flush=True)


def work(stage: str, run: str, steps: int) -> None:
    """Train in this process and checkout, metered."""
    from hydra import compose, initialize_config_dir

    sys.path[:0] = [os.getcwd(), str(Path(__file__).parent)]
    from train import train

    print(json.dumps({"peak": peak()}), flush=True)
    with initialize_config_dir(str(Path.cwd() / "configs"), version_base="1.3"):
        size = compose("train", overrides=["stage=iql"]).size
        own = size.get("jpo_accumulate") if stage == "jpo" else None  # an older checkout has one for both
        every = int(own or size.accumulate) * (steps + 1)
        changes = {
            "stage": stage,
            "run_dir": run,
            f"size.{stage}_steps": 2 * steps + 3,
            f"size.{stage}_val_every": every,
            "callbacks.progress_bar": "null",
            "+trainer.enable_progress_bar": "false",
            "+callbacks.meter._target_": "training_throughput.Meter",
            **SETTINGS[stage],
        }
        config = compose("train", overrides=[f"{key}={value}" for key, value in changes.items()])
    train(config)


def peak() -> float:
    """Operations a second of bfloat16 products with the largest matrix of the embedded model, the best of twenty."""
    x, weight, best = torch.randn(1792, 576).bfloat16(), torch.randn(1536, 576).bfloat16(), 0.0
    for _ in range(20):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        best = max(best, 2 * x.numel() * len(weight) / (time.perf_counter() - began))
    return best


class Worker:
    """A checkout that trains in a process of its own, step by step."""

    def __init__(self, checkout: Path, stage: str, run: Path, steps: int, place: Path) -> None:
        for earlier in ("iql", "sft")[: 1 if stage == "sft" else 2]:
            shutil.copytree(run / earlier, place / earlier)
        command = [sys.executable, __file__, "--work", stage, "--run", str(place), "--steps", str(steps)]
        paths = [str(checkout / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        self.log = (place / "worker.log").open("w")
        self.process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=-1, stdout=-1, stderr=self.log, text=True
        )
        self.peak = self.told()["peak"]

    def told(self) -> dict[str, Any]:
        """The next line that the meter writes; everything else that a command prints is skipped."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"the training ended early: {Path(self.log.name).read_text(encoding='utf-8')[-2000:]}")

    def do(self, kind: str) -> dict[str, Any]:
        """One optimizer step or validation, whichever is due, which has to be `kind`."""
        due = self.told()["ready"]
        if due != kind:
            raise SystemExit(f"a {due} is due, not a {kind}")
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.told()

    def end(self) -> None:
        self.process.kill()  # a polite signal would wait for the end of a step that never comes
        self.process.wait()


def measure(stage: str, checkouts: list[tuple[Path, Path]], steps: int) -> list[dict[str, Any]]:
    """What each checkout with its run took: lists of steps and validations, and the peak of its products."""
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            Worker(checkout, stage, run, steps, Path(folder) / str(number))
            for number, (checkout, run) in enumerate(checkouts)
        ]
        found: list[dict[str, Any]] = [{"peak": worker.peak, "step": [], "validation": []} for worker in workers]
        # two rounds of steps with a validation after each; one step and one validation to warm up
        order = [*["step"] * (steps + 1), "validation", *["step"] * (steps + 1), *["validation"] * (stage == "jpo")]
        for number, kind in enumerate(order):
            for worker, own in zip(workers, found, strict=True):
                took = worker.do(kind)
                if number and (kind == "step" or number > steps + 1):
                    own[kind].append(took)
                print(
                    "there" if own is found[-1] and own is not found[0] else "here", stage, kind, took, file=sys.stderr
                )
        for worker in workers:
            worker.end()
        return found


def rows(stage: str, found: dict[str, Any]) -> dict[str, float]:
    """The figures of one checkout."""
    steps = found["step"]
    seconds = sum(step["seconds"] for step in steps)
    memory = max(one["memory_gib"] for one in [*steps, *found["validation"]])
    if stage == "sft":
        tokens = sum(step["tokens"] for step in steps) / seconds
        return {
            "SFT: tokens a second": tokens,
            "SFT: supervised turns a second": sum(step["turns"] for step in steps) / seconds,
            "SFT: share of the matrix-product peak": 4 * WEIGHTS * tokens / found["peak"],
            "SFT: peak memory, GiB": memory,
        }
    return {
        "JPO: replies a second": sum(step["turns"] for step in steps) / seconds,
        f"JPO: validations of {CONTEXTS} contexts a minute": 60 / found["validation"][-1]["seconds"],
        "JPO: peak memory, GiB": memory,
    }


WEIGHTS = 106e6  # in the layers of the embedded model, its vocabulary not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("checkpoints/demo"))
    parser.add_argument("--against", type=Path)
    parser.add_argument("--their-run", type=Path, help="a run of that checkout; by default the same")
    parser.add_argument("--steps", type=int, default=3, help="counted optimizer steps before and after a validation")
    parser.add_argument("--stages", nargs="+", default=["sft", "jpo"], choices=list(SETTINGS))
    parser.add_argument("--work", choices=list(SETTINGS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, str(given.run), given.steps)
        return
    if not (given.run / "iql" / "best.ckpt").is_file():
        print(f"{given.run} has no finished stage=iql; make demo writes one")
        return
    here = Path(__file__).parents[1].resolve()
    checkouts = [(here, given.run.resolve())]
    if given.against:
        checkouts.append((given.against.resolve(), (given.their_run or given.run).resolve()))
    print(f"| what | here |{' there | ratio |' if given.against else ''}")
    print("|---|---|" + "---|---|" * bool(given.against))
    for stage in given.stages:
        found = [rows(stage, one) for one in measure(stage, checkouts, given.steps)]
        for name, own in found[0].items():
            others = "".join(f" {one[name]:.3g} | {own / one[name]:.2f} |" for one in found[1:])
            print(f"| {name} | {own:.3g} |{others}", flush=True)


if __name__ == "__main__":
    main()
