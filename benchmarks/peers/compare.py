"""The same work by this project and by TRL, torchrl and d3rlpy, side by side: `make peers`.

    python benchmarks/peers/compare.py --theirs .venv-peers/bin/python [--work sft jpo iql cql] [--their-base bfloat16]

Ours trains in this environment by the command's own learners, loop and callbacks, theirs in their environment by their
own trainers. Both are up at once and take their steps in turn, so that whatever else the machine does falls on both.
The first step of each is thrown away; then they go on in turn until the time of that work is used up, each at least
once. Both read the same episodes, prompts and transitions (`ours.py` writes them).

| work | ours | theirs |
|---|---|---|
| sft | one chat an episode, all its replies learnt in one pass | TRL's SFTTrainer, one example a reply |
| jpo | replies, judge, reference, update | TRL's GRPOTrainer, a reward that costs nothing |
| iql | `train.py stage=iql` | a loop around torchrl's DiscreteIQLLoss |
| cql | the same | d3rlpy's DiscreteCQL, another algorithm: d3rlpy has no discrete IQL |

Both sides of sft and jpo: the embedded model in NF4, LoRA of the same rank, all cores. A step of SFT is four chats of
ours and four examples of theirs; one of JPO four contexts of one episode, with four replies to each. iql and cql: one
thread.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SECONDS = {"sft": 110, "jpo": 130, "iql": 25, "cql": 25, "decoding": 10}  # of steps that count, for both sides together
UNITS = {"sft": "turns", "jpo": "turns", "iql": "updates", "cql": "updates"}
NAMES = {
    "sft": "SFT, supervised turns a second",
    "jpo": "group-sampled policy optimisation, replies a second",
    "iql": "discrete IQL, updates a second",
    "cql": "discrete IQL against DiscreteCQL, updates a second",
}
LAYERS, HEAD = 106e6, 28e6  # weights of the embedded model in its layers and in its output layer


class Side:
    """A process that does one step at a word."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TOKENIZERS_PARALLELISM": "false"}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=-1, stdout=-1, stderr=errors, text=True
            )
        self.steps: list[dict[str, float]] = []

    def told(self) -> dict[str, Any]:
        """The next thing that it says to us; what its libraries print is skipped."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{"'):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"{self.log.stem} ended early: {self.log.read_text(encoding='utf-8')[-2000:]}")

    def step(self) -> None:
        while "ready" not in self.told():
            pass
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.steps.append(self.told())

    def rate(self, unit: str, clock: str = "seconds") -> float:
        """How many of a unit a second, over the counted steps; `cpu_seconds` is the processor's clock."""
        return total(self.steps[1:], unit) / total(self.steps[1:], clock)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()  # Lightning would finish the step that waits for a word, and has nothing to keep
        with self.process:  # waits for it, and closes its pipes
            pass


def total(steps: list[dict[str, float]], key: str) -> float:
    return sum(step[key] for step in steps)


def ours(work: str, folder: Path) -> Side:
    name = "iql" if work == "cql" else work
    return Side([sys.executable, str(HERE / "ours.py"), name, str(folder)], folder / f"ours-{work}.log")


def theirs(work: str, folder: Path, python: Path, settings: dict[str, Any]) -> Side:
    command = [str(python), str(HERE / "theirs.py"), work, str(folder), json.dumps(settings)]
    return Side(command, folder / f"theirs-{work}.log")


def in_turn(sides: list[Side], seconds: float) -> None:
    """One step each that is thrown away, then steps in turn until the time is used up."""
    began = None
    while began is None or len(sides[0].steps) < 2 or time.perf_counter() - began < seconds:
        for side in sides:
            side.step()
        began = began or time.perf_counter()


def ratios(own: Side, their: Side, unit: str) -> list[float]:
    """Of each counted pair of steps."""
    pairs = zip(own.steps[1:], their.steps[1:], strict=True)
    return sorted((a[unit] / a["seconds"]) / (b[unit] / b["seconds"]) for a, b in pairs)


def processor() -> str:
    """The processor's name and the instructions that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*:\s*(.*)", text)
    fast = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in text]
    return f"{name[1] if name else platform.machine()} ({', '.join(fast) or 'no bfloat16 instructions'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, default=Path(".venv-peers/bin/python"), help="their interpreter")
    parser.add_argument("--work", nargs="+", default=list(UNITS), choices=list(UNITS))
    parser.add_argument("--their-base", choices=["4-bit", "bfloat16"], default="4-bit", help="of TRL; ours is 4-bit")
    given = parser.parse_args()
    if not given.theirs.is_file():
        raise SystemExit(f"{given.theirs} does not exist; make peers creates it")
    python = Path(os.path.abspath(given.theirs))  # not resolved: a virtual environment's python is a link
    with tempfile.TemporaryDirectory(prefix="emodistill-peers-") as name:
        folder = Path(name)
        prepared = subprocess.run(
            [sys.executable, str(HERE / "ours.py"), "prepare", name],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdout=-1,
            text=True,
            check=True,
        )
        settings = json.loads(prepared.stdout) | {"four_bit": given.their_base == "4-bit"}
        print(f"{datetime.date.today()}, {processor()}, {os.cpu_count()} cores")
        print("\n| work | ours | theirs | ratio (pairs of steps) | of processor time | with |")
        print("|---|---:|---:|---:|---:|---|", flush=True)
        shares = []
        for work in given.work:
            with ours(work, folder) as own:
                first = own.told()  # with the peak of the products, while nobody else is at work
                with theirs(work, folder, python, settings) as their:
                    about = their.told()
                    in_turn([own, their], SECONDS[work])
            unit, spread = UNITS[work], ratios(own, their, UNITS[work])
            a, b = own.rate(unit), their.rate(unit)
            processors = own.rate(unit, "cpu_seconds") / their.rate(unit, "cpu_seconds")
            versions = f"{about['version']}, torch {about['torch']}, threads: {first['threads']}"
            print(
                f"| {NAMES[work]} | {a:.3g} | {b:.3g} | {a / b:.2f} ({spread[0]:.2f} to {spread[-1]:.2f}, "
                f"{len(spread)}) | {processors:.2f} | {versions} |",
                flush=True,
            )
            if work == "sft":
                shares.append(("SFT", own.rate("tokens"), 4 * LAYERS, first["peak"]))
        with ours("decoding", folder) as decoder:
            first = decoder.told()
            in_turn([decoder], SECONDS["decoding"])
        shares.append(("decoding, 32 rows", decoder.rate("tokens"), 2 * (LAYERS + HEAD), first["peak"]))
        print("\n| ours | tokens a second | GFLOP/s | bfloat16 products reach | share |\n|---|---:|---:|---:|---:|")
        for what, tokens, operations, peak in shares:
            reached = tokens * operations
            print(f"| {what} | {tokens:.0f} | {reached / 1e9:.0f} | {peak / 1e9:.0f} | {reached / peak:.0%} |")


if __name__ == "__main__":
    main()
