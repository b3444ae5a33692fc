"""The trainings of test_several_devices.py: `python tests/several_devices.py FOLDER PORT`.

What takes long is to import the packages. So one interpreter does that, and forks every process that trains, each with
an environment of its own: one device alone, two machines of one device each (by turns with DDP and FSDP2), and a
command that starts its second process itself.
"""

import hashlib
import json
import multiprocessing
import os
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.utils.tensorboard
from tiny_runs import QUIET, Workplace, batches, composed, forget_cut

import callbacks  # noqa: F401  # what every process needs is imported here, before they are forked
from emodistill.data import chat_datasets, transitions  # noqa: F401
from emodistill.learners import iql, jpo, selector, sft  # noqa: F401
from emodistill.policy import generation  # noqa: F401
from train import train

ROOT = Path(__file__).resolve().parents[1]
CUT = ("+callbacks.cut._target_=tiny_runs.PowerCut", "+callbacks.cut.step=3")
PLAIN = ("policy.four_bit=false",)
NODES = ("trainer.num_nodes=2",)
FSDP = (*NODES, "trainer.strategy=fsdp")
GOOD = ("learner.negative_weight=0.0",)  # or else the loss of JPO is 0 whatever it learns
STEPS = {"iql": 4, "sft": 6, "jpo": 6}  # checkpoints after every third, and at validations


class StepLog(L.Callback):
    """Writes a line for each optimizer step: its loss, and what all devices learnt it from."""

    def __init__(self, file):
        self.file = Path(file)

    def on_train_start(self, trainer, learner):
        self.loss, self.rows = 0.0, []
        own = [getattr(parameter, "to_local", parameter.detach)() for parameter in learner.parameters()]
        self.held = sum(tensor.nbytes for tensor in own)

    def on_train_batch_end(self, trainer, learner, outputs, batch, batch_idx):
        self.loss = self.loss + outputs["loss"].detach()
        self.rows += rows_of(batch)
        if trainer.fit_loop._should_accumulate():
            return
        loss, gathered = trainer.strategy.reduce(self.loss.clone(), reduce_op="mean"), [self.rows]
        if trainer.world_size > 1:
            gathered = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.rows)
        if trainer.is_global_zero:
            line = {"loss": float(loss), "rows": sorted(sum(gathered, [])), "held": self.held}
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        self.loss, self.rows = 0.0, []


def rows_of(batch):
    """A name for everything that a batch teaches; none for a batch that only keeps step."""
    if not getattr(batch, "counts", True):
        return []
    if hasattr(batch, "contexts"):
        found = [context.input_ids for context in batch.contexts]
    elif hasattr(batch, "chats"):
        found = [
            ids[mask].tolist() for ids, mask in zip(batch.chats.input_ids, batch.chats.attention_mask, strict=True)
        ]
    else:
        found = [[*row.tolist(), int(action)] for row, action in zip(batch.observation, batch.action, strict=True)]
    return [hashlib.sha256(repr(row).encode()).hexdigest()[:8] for row in found]


def overrides(place, stage, run):
    """Small steps of two batches in float32, on seven chats of one turn: the last step of an epoch has one."""
    few = ["selection=published", "data.dataset.selection.fraction=0.01", "data.dataset.batch_size=1"]
    exact = ["model.compute_dtype=float32", "sampler.dtype=float32", "sampler.max_new_tokens=6"]
    sizes = [f"size.{name}_steps={steps}" for name, steps in STEPS.items()]
    sizes += ["size.accumulate=2", "size.jpo_accumulate=2", "size.sft_val_every=8", "size.jpo_val_every=8"]
    own = batches("iql") if stage == "iql" else [*few, *exact]
    if stage != "iql" and run != "fsdp":
        own.append("callbacks.samples=null")
    log = ["+callbacks.log._target_=several_devices.StepLog", f"+callbacks.log.file={place.folder / run / stage}.jsonl"]
    ledger = f"judge.ledger.path={place.folder / 'ledger.sqlite'}"
    return [f"stage={stage}", "monitor.save_every=3", *QUIET, ledger, *own, *log, *place.overrides(run), *sizes]


def learn(place, stage, run, *more, cut=False):
    """One training in this process; with `cut`, the power goes after the third step."""
    config = composed("train", *overrides(place, stage, run), *more, *(CUT if cut else ()))
    with pytest.raises(RuntimeError, match="power cut") if cut else nullcontext():
        train(config)


def begin(place, run, stages):
    for stage in stages:
        if not (place.folder / run / stage).exists():
            place.copy("one", run, [stage])


def one_device(place):
    for stage in STEPS:
        learn(place, stage, "one", *(GOOD if stage == "jpo" else ()))
    for run in ("whole", "ddp", "fsdp", "cut", "grown", "shrunk", "command"):
        begin(place, run, ["iql"])
    for run in ("ddp_jpo", "fsdp_jpo"):
        begin(place, run, ["iql", "sft"])
    learn(place, "sft", "whole", *PLAIN)
    learn(place, "sft", "grown", cut=True)
    forget_cut(place.folder / "grown" / "sft")


def two_machines(place):
    learn(place, "iql", "ddp_iql", *NODES)
    learn(place, "sft", "ddp", *NODES)
    learn(place, "jpo", "ddp_jpo", *NODES, *GOOD)
    learn(place, "sft", "grown", *NODES)  # begun by one
    learn(place, "sft", "fsdp", *FSDP, *PLAIN)
    learn(place, "jpo", "fsdp_jpo", *FSDP, *GOOD)
    for run, more in (("cut", NODES), ("shrunk", (*FSDP, *PLAIN))):
        learn(place, "sft", run, *more, cut=True)
        torch.distributed.barrier()
        if os.environ["NODE_RANK"] == "0":
            forget_cut(place.folder / run / "sft")
        torch.distributed.barrier()
    learn(place, "sft", "cut", *NODES)


def one_device_again(place):
    learn(place, "sft", "shrunk", *PLAIN)  # begun by two


def one_command(place):
    sys.argv = ["train.py", *overrides(place, "sft", "command"), "trainer.devices=2"]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def process(work, place, environment, log):
    """What a forked process does; its output goes to a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    work(place)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def main(folder, port):
    torch.set_num_threads(1)
    os.chdir(ROOT)
    place, fork = Workplace(folder), multiprocessing.get_context("fork")
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for work, environments in (
        (one_device, [{}]),
        (two_machines, [meeting | {"NODE_RANK": "0"}, meeting | {"NODE_RANK": "1"}]),
        (one_device_again, [{}]),
        (one_command, [{}]),
    ):
        logs = [folder / f"{work.__name__}-{rank}.log" for rank in range(len(environments))]
        processes = [
            fork.Process(target=process, args=(work, place, environment, log))
            for environment, log in zip(environments, logs, strict=True)
        ]
        for one in processes:
            one.start()
        while any(one.is_alive() for one in processes):
            if any(one.exitcode for one in processes):  # nobody waits for one that is gone
                for other in processes:
                    other.kill()
            for one in processes:
                one.join(0.2)
        if any(one.exitcode for one in processes):
            sys.exit("\n".join(log.read_text()[-4000:] for log in logs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
