"""Every stage on two processes: `python train.py ... trainer.devices=2 +trainer.strategy=ddp`, on the CPU here."""

import os
import subprocess
import sys

import pytest
import torch
from test_resume import ROOT, assert_same_end
from tiny_runs import QUIET, Workplace, forget_cut

pytestmark = pytest.mark.slow
TWO = ("trainer.devices=2", "+trainer.strategy=ddp", "data.dataset.batch_size=1")


def train(place, stage, run, *overrides):
    """A process that starts the other one itself."""
    ledger = f"judge.ledger.path={place.folder / 'ledger.sqlite'}"
    sampler = [] if stage == "iql" else ["sampler.max_new_tokens=6"]
    own = [f"stage={stage}", "monitor.save_every=1", *QUIET, ledger, *sampler, *place.overrides(run), *TWO]
    return subprocess.run(
        [sys.executable, "train.py", *own, *overrides],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("ddp"))
    for stage in ("iql", "sft", "jpo"):
        done = train(place, stage, "run")
        assert done.returncode == 0, done.stderr
        assert "MEMBER: 2/2" in done.stdout + done.stderr
    return place


def test_the_generators_of_both_processes_are_saved(place):
    for stage in ("iql", "sft", "jpo"):
        saved = torch.load(place.folder / "run" / stage / "last.ckpt", weights_only=True)
        assert len(saved["callbacks"]["RngState"]["ranks"]) == 2


def test_two_processes_see_twice_the_data_of_one(place):
    place.copy("run", "alone", ["iql"])
    place.train("sft", "alone", "data.dataset.batch_size=1")
    states = [torch.load(place.folder / run / "sft" / "last.ckpt", weights_only=True) for run in ("run", "alone")]
    assert states[0]["global_step"] == states[1]["global_step"]
    assert not all(
        torch.equal(one, other) for one, other in zip(*(state["state_dict"].values() for state in states), strict=True)
    )


def test_two_processes_learn_what_one_learns_from_batches_of_two(place):
    """The mean over the tokens of a step, however it is cut: dropout apart, for each process draws its own."""
    epoch = "size.sft_steps=4"  # an odd number of chats: at an epoch's end, two processes leave out the last of them
    plain = ("policy.lora.lora_dropout=0.0", "model.compute_dtype=float32", epoch)
    for run in ("pair", "single"):
        place.copy("run", run, ["iql"])
    done = train(place, "sft", "pair", *plain)
    assert done.returncode == 0, done.stderr
    place.train("sft", "single", "data.dataset.batch_size=2", *plain)
    pair, single = (place.weights(run, "sft") for run in ("pair", "single"))
    grown = [name for name in single if "lora_B" in name]  # these begin at zero, so their size is what was learned
    assert grown
    one, other = (torch.cat([weights[name].flatten() for name in grown]) for weights in (pair, single))
    assert (one - other).norm() < 0.01 * other.norm()


def test_a_run_that_was_cut_ends_where_the_unbroken_one_does(place):
    place.copy("run", "cut", ["iql"])
    cut = ("+callbacks.cut._target_=tiny_runs.PowerCut", "+callbacks.cut.step=3", "+callbacks.cut.when=step")
    broken = train(place, "sft", "cut", *cut)
    assert broken.returncode != 0 and "power cut" in broken.stderr
    forget_cut(place.folder / "cut" / "sft")
    done = train(place, "sft", "cut")
    assert done.returncode == 0, done.stderr
    assert_same_end(place, "run", "cut", "sft")
