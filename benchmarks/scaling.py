"""Speed and memory against model size, chat length, batch and corpus size; what a GPU would need: `make scaling`.

    python benchmarks/scaling.py [--what models lengths batches corpora gpu] [--models 135M 360M 1B 3B] [--steps 2]

Every point is a process of its own, so that the peak of its memory is its own. A model has random weights in the shape
of a known one: SmolLM2 (135M, 360M), Llama 3.2 (1B, 3B). A step is that of SFT: the expression policy in NF4 with LoRA
on all layers, forward, backward, AdamW; a third of a chat's tokens bear loss, as in the bundled corpus. The first step
is not counted. The corpora repeat the bundled one with fresh ids, and go through the DataModule of `train.py`.

Nothing is measured on a GPU: `gpu` computes bytes and operations from the shapes (see `gpu_needs`).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
RANK, LEARNT = 16, 3  # of LoRA; one token in three bears loss


@dataclass(frozen=True)
class Shape:
    """A Llama-like model whose output layer is its embedding."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    head_dim: int

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of one block."""
        of_heads, of_keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        attention = [(self.hidden, of_heads), (self.hidden, of_keys), (self.hidden, of_keys), (of_heads, self.hidden)]
        return attention + [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]

    @property
    def weights(self) -> int:
        """In the linear layers of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def adapter(self) -> int:
        """Weights of LoRA on all of them."""
        return self.layers * sum(RANK * (inputs + outputs) for inputs, outputs in self.linears)

    @property
    def head(self) -> int:
        """Weights of the embedding, which is the output layer."""
        return self.vocabulary * self.hidden

    @property
    def kept_a_token(self) -> int:
        """Bytes that one token leaves for the backward pass, in bfloat16.

        Of each block: what both norms read and write, queries, keys and values, what attention writes, gate, up and
        their product, and seven inputs of rank r.
        """
        attended = (2 * self.heads + 2 * self.key_value_heads) * self.head_dim
        return 2 * self.layers * (4 * self.hidden + attended + 3 * self.intermediate + 7 * RANK)

    def operations(self, tokens: int) -> float:
        """Of one training token in a chat of so many: forward, and backward to activations and adapter.

        Twice a weight each way, attention over half of the chat, and the output layer where a token bears loss.
        """
        attention = 3 * 2 * 2 * self.layers * self.heads * self.head_dim * tokens / 2
        return 4 * self.weights + 6 * self.adapter + attention + 4 * self.head / LEARNT


SHAPES = {
    "135M": Shape(576, 1536, 30, 9, 3, 49152, 64),
    "360M": Shape(960, 2560, 32, 15, 5, 49152, 64),
    "1B": Shape(2048, 8192, 16, 32, 8, 128256, 64),
    "3B": Shape(3072, 8192, 28, 24, 8, 128256, 128),
    "7B": Shape(3584, 18944, 28, 28, 4, 152064, 128),  # Qwen 2.5; only computed
}
GPUS = {"RTX 4090, 24 GB": 165e12, "A100, 80 GB": 312e12, "H100, 80 GB": 989e12}  # bfloat16 operations a second, dense
SHARE = 0.4  # of a GPU's operations that the computed speeds assume


def write_model(name: str, folder: str) -> dict[str, Any]:
    """Random weights of a shape, as a folder that transformers reads."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPES[name]
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        empty = LlamaForCausalLM(config)
    tensors = {
        key: torch.ones(value.shape).bfloat16() if value.ndim == 1 else torch.randn(value.shape).mul_(0.02).bfloat16()
        for key, value in empty.state_dict().items()
        if not key.startswith("lm_head")
    }
    save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return {}


def memory() -> float:
    """Peak resident memory of this process since `forget_peak`, or since it began, in GiB."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    (peak,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(peak) * 1024 / GIB


def forget_peak() -> None:
    """Count the peak from now on, where the system can."""
    file = Path("/proc/self/clear_refs")
    if file.is_file():
        file.write_text("5")


def train_step(folder: str, tokens: int, batch: int, steps: int) -> dict[str, Any]:
    """SFT steps on `batch` random chats of so many tokens."""
    import torch

    from emodistill.policy.expression_policy import ExpressionPolicy
    from emodistill.policy.token_batches import collate_chats

    lora = {"r": RANK, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
    began = time.perf_counter()
    policy = ExpressionPolicy(folder, lora, True, "auto", vocabulary="goemotions28", device="cpu")
    loaded, peak_of_loading = time.perf_counter() - began, memory()
    forget_peak()
    draw, vocabulary = torch.Generator().manual_seed(0), policy.model.get_base_model().config.vocab_size
    owner = [0 if i % LEARNT == 0 else -1 for i in range(1, tokens + 1)]
    rows = [(torch.randint(vocabulary, (tokens,), generator=draw).tolist(), owner) for _ in range(batch)]
    chats = collate_chats(rows, pad_id=0)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-4)
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        (-policy(chats).logprobs.mean()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    speed = tokens * batch * steps / sum(seconds[1:])
    return {"loading_s": loaded, "loading_gib": peak_of_loading, "tokens_s": speed, "gib": memory()}


def write_corpus(source: str, path: str, turns: int) -> dict[str, Any]:
    """Episodes of a corpus, repeated with fresh ids until there are so many turns; returns how many there are."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(source)
    lengths = pc.list_value_length(table["turns"]).to_pylist()
    spread = table.take([i * 7919 % len(table) for i in range(len(table))])  # 7919 is prime: all domains from the start
    parts, found, number = [], 0, 0
    lengths = [lengths[i * 7919 % len(table)] for i in range(len(table))]
    while found < turns:
        rows = 0
        while rows < len(lengths) and found < turns:
            found, rows = found + lengths[rows], rows + 1
        part = spread.slice(0, rows)
        for name in ("episode_id", "scenario_id"):
            place = part.schema.get_field_index(name)
            renamed = pc.binary_join_element_wise(part[name], f"copy-{number}", "/")
            part = part.set_column(place, part.schema.field(place), renamed)
        parts.append(part)
        number += 1
    pq.write_table(pa.concat_tables(parts), path)
    return {"turns": found}


def prepare_corpus(path: str, stage: str) -> dict[str, Any]:
    """Seconds and memory from the episode file to the first batch of a stage, every focal turn chosen."""
    sys.path[:0] = [str(ROOT)]
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from commands.building import register_variants

    register_variants()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        overrides = [f"stage={stage}", "data=file", f"data.corpus.path={path}", f"judge.ledger.path={path}.sqlite"]
        config = compose("train", overrides=[*overrides, *["selection=all"] * (stage == "sft")])
    data = instantiate(config.data, _convert_="all")
    before, began, busy = memory(), time.perf_counter(), time.process_time()
    data.prepare_data()
    data.setup("fit")
    next(iter(data.train_dataloader()))
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - busy}
    return took | {"before_gib": before, "gib": memory()}


POINTS = {"write_model": write_model, "train_step": train_step, "write_corpus": write_corpus, "prepare": prepare_corpus}


def point(kind: str, **given: Any) -> dict[str, Any] | str:
    """One point in a process of its own; where it ends for want of memory, a word that says so."""
    command = [sys.executable, "-W", "ignore", __file__, "--point", kind, "--given", json.dumps(given)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode in (-9, 137) or "MemoryError" in done.stderr or "DefaultCPUAllocator" in done.stderr:
        return "memory ends"
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(title: str, columns: Sequence[str]) -> None:
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def steps_of(folder: str, shape: Shape, label: object, tokens: int, batch: int, steps: int) -> bool:
    """Measure and print one point of an SFT step; whether memory held."""
    found = point("train_step", folder=folder, tokens=tokens, batch=batch, steps=steps)
    if isinstance(found, str):
        row(label, found, "", "", "")
        return False
    reached = found["tokens_s"] * shape.operations(tokens) / 1e9
    row(
        label,
        f"{found['tokens_s']:.0f}",
        f"{reached:.0f}",
        f"{found['gib']:.2f}",
        f"{found['loading_s']:.0f} s, {found['loading_gib']:.2f}",
    )
    return True


STEP = ("tokens a second", "GFLOP/s", "GiB, steps", "loading, GiB")


def models(names: Sequence[str], steps: int) -> None:
    table("Model size, one chat of 512 tokens", ("model", *STEP))
    for name in names:
        with tempfile.TemporaryDirectory(prefix="emodistill-model-") as folder:
            point("write_model", name=name, folder=folder)
            if not steps_of(folder, SHAPES[name], name, 512, 1, steps):
                break


def lengths_and_batches(what: Sequence[str], steps: int) -> None:
    shape = SHAPES["135M"]
    with tempfile.TemporaryDirectory(prefix="emodistill-model-") as folder:
        point("write_model", name="135M", folder=folder)
        if "lengths" in what:
            table("Chat length, 135M, one chat", ("tokens a chat", *STEP))
            for tokens in (256, 512, 1024, 2048, 4096):
                if not steps_of(folder, shape, tokens, tokens, 1, steps):
                    break
        if "batches" in what:
            table("Batch, 135M, chats of 512 tokens", ("chats", *STEP))
            for batch in (1, 2, 4, 8, 16):
                if not steps_of(folder, shape, batch, 512, batch, steps):
                    break


def corpora(sizes: Sequence[int]) -> None:
    sys.path[:0] = [str(ROOT / "benchmarks" / "peers")]
    import ours

    table(
        "Corpus size: from the file to the first batch",
        ("turns", "stage", "seconds", "of processor time", "GiB", "GiB before"),
    )
    with tempfile.TemporaryDirectory(prefix="emodistill-corpus-") as folder:
        source = str(ours.bundled(Path(folder)))
        for size in sizes:
            path = f"{folder}/episodes-{size}.parquet"
            written = point("write_corpus", source=source, path=path, turns=size)
            assert isinstance(written, dict)
            for stage in ("iql", "sft"):
                found = point("prepare", path=path, stage=stage)
                if isinstance(found, str):
                    row(f"{written['turns']:,}", stage, found, "", "", "")
                    continue
                took = [f"{found[key]:.1f}" for key in ("seconds", "cpu_seconds")]
                row(f"{written['turns']:,}", stage, *took, f"{found['gib']:.2f}", f"{found['before_gib']:.2f}")


def gpu_needs(shape: Shape, tokens: int) -> dict[str, float]:
    """Bytes on a GPU for an SFT step on so many tokens, from the shape alone.

    NF4 with double quantisation takes 4.127 bits a weight; the embedding stays in bfloat16. Adapter, its gradient and
    AdamW's two moments are float32. One layer at a time is unpacked, 2 bytes a weight.
    """
    return {
        "weights": shape.weights * 4.127 / 8 + 2 * shape.head,
        "unpacked": 2.0 * max(inputs * outputs for inputs, outputs in shape.linears),
        "adapter": 16.0 * shape.adapter,
        "activations": float(shape.kept_a_token * tokens),
    }


def gpu() -> None:
    names = ("weights", "unpacked", "adapter", "activations")
    speeds = [f"tokens a second, {name}" for name in GPUS]
    table(
        f"A GPU, computed and not measured: GiB for 4 chats of 1,024 tokens; speed at {SHARE:.0%} of its operations",
        ("model", *names, "all", "GFLOP a token", *speeds),
    )
    for name, shape in SHAPES.items():
        needs, operations = gpu_needs(shape, 4 * 1024), shape.operations(1024)
        gibs = [needs[part] / GIB for part in names]
        speed = [f"{SHARE * peak / operations:,.0f}" for peak in GPUS.values()]
        row(name, *(f"{gib:.2f}" for gib in gibs), f"{sum(gibs):.1f}", f"{operations / 1e9:.2f}", *speed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["models", "lengths", "batches", "corpora", "gpu"]
    parser.add_argument("--what", nargs="+", default=every, choices=every)
    parser.add_argument("--models", nargs="+", default=["135M", "360M", "1B", "3B"], choices=list(SHAPES))
    parser.add_argument("--turns", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=2, help="counted steps a point")
    parser.add_argument("--point", choices=list(POINTS), help=argparse.SUPPRESS)
    parser.add_argument("--given", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        print(json.dumps(POINTS[given.point](**given.given)))
        return
    if "models" in given.what:
        models(given.models, given.steps)
    if {"lengths", "batches"} & set(given.what):
        lengths_and_batches(given.what, given.steps)
    if "corpora" in given.what:
        corpora(given.turns)
    if "gpu" in given.what:
        gpu()


if __name__ == "__main__":
    main()
