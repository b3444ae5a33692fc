"""A run that stops and goes on must end where the unbroken run ends, to the last bit, whenever it stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import batches, begun, composed, cut_and_resume, forget_cut

from emodistill.errors import UserError
from train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"iql": 8, "sft": 6, "jpo": 4}  # steps; validations after every 4, 2 and 2 of them
ON_CORPUS = ("data.dataset.utterances=corpus",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Unbroken runs: `run` with all three stages, `logged` with JPO on the corpus's own words."""
    place = begun(tmp_path_factory, "resume", *STAGES)
    place.copy("run", "logged", ["iql", "sft"])
    place.train("jpo", "logged", *ON_CORPUS)
    return place


def same(one, other):
    """Equality to the last bit, down through dicts and lists."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_end(place, run, other, stage):
    """Weights, optimizer, schedule, generators, cursor and what JPO remembers of one run are those of the other."""
    ends = [torch.load(place.folder / name / stage / "last.ckpt", weights_only=True) for name in (run, other)]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "NegotiationData", "jpo", "global_step", "epoch"):
        assert same(ends[0].get(part), ends[1].get(part)), part
    assert same(ends[0]["callbacks"]["RngState"], ends[1]["callbacks"]["RngState"])
    best = [place.weights(name, stage, "best.ckpt") for name in (run, other)]
    assert same(*best)


def before(place, run, stage):
    """The stages that a stage builds on, as they ended."""
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    place.copy("run", run, earlier)


@pytest.mark.parametrize(
    ("stage", "step", "when"),
    [
        ("iql", 1, "step"),
        ("iql", 3, "step"),  # in the middle of an epoch
        ("iql", 4, "step"),  # its last batch, before the validation
        ("iql", 4, "validation"),
        ("iql", 5, "step"),
        ("sft", 1, "step"),
        ("sft", 2, "step"),
        ("sft", 2, "validation"),
        ("sft", 3, "step"),
        ("sft", 6, "validation"),  # all is learned, nothing is exported yet
        ("jpo", 1, "step"),
        ("jpo", 2, "validation"),
        ("jpo", 3, "step"),
    ],
)
def test_resume_is_exact(place, stage, step, when):
    run = f"cut-{stage}-{step}-{when}"
    before(place, run, stage)
    trainer = cut_and_resume(place, stage, run, step, when)
    assert trainer.global_step == STAGES[stage]
    assert (place.folder / run / stage / "adapter").is_dir() == (stage != "iql")
    assert_same_end(place, "run", run, stage)


@pytest.mark.parametrize(("step", "when"), [(1, "step"), (2, "validation"), (3, "step")])
def test_resume_on_corpus_words_is_exact(place, step, when):
    """What is remembered of reference and judge goes into the checkpoint."""
    run = f"cut-logged-{step}-{when}"
    before(place, run, "jpo")
    cut_and_resume(place, "jpo", run, step, when, ON_CORPUS)
    assert_same_end(place, "logged", run, "jpo")
    saved = torch.load(place.folder / run / "jpo" / "last.ckpt", weights_only=True)
    assert saved["jpo"]["cache"]["ref_logprobs"] and saved["jpo"]["cache"]["group_scores"]


def test_epochs_that_end_between_cuts_are_gone_on_with(place):
    """A turn a scenario is soon gone through: the cut is in a later epoch. And two batches make a step here."""
    few = ("selection=published", "data.dataset.selection.fraction=0.01", "size.accumulate=2", "size.sft_val_every=4")
    for run in ("few", "few-cut"):
        before(place, run, "sft")
    place.train("sft", "few", *few)
    cut_and_resume(place, "sft", "few-cut", 5, overrides=few)
    saved = torch.load(place.folder / "few" / "sft" / "last.ckpt", weights_only=True)
    assert saved["epoch"] >= 1
    assert_same_end(place, "few", "few-cut", "sft")


def test_a_validation_in_the_middle_of_a_step_leaves_nothing_half_learnt_behind(place):
    """Two batches a step, a validation every three: the gradient of the first batch is in no checkpoint."""
    odd = ("selection=published", "size.accumulate=2", "size.sft_val_every=3")
    for run in ("odd", "odd-cut"):
        before(place, run, "sft")
    place.train("sft", "odd", *odd)
    cut_and_resume(place, "sft", "odd-cut", 4, "validation", odd)  # after nine batches
    assert_same_end(place, "odd", "odd-cut", "sft")


def test_a_stage_is_not_continued_on_data_that_has_changed(place):
    """Changed is what the note says: to the stage it is the same. And a note of an earlier version says nothing."""
    with pytest.raises(RuntimeError, match="power cut"):
        place.train("iql", "moved", "+callbacks.cut._target_=tiny_runs.PowerCut", "+callbacks.cut.step=3")
    stage = place.folder / "moved" / "iql"
    forget_cut(stage)
    note = json.loads((stage / "corpus.json").read_text(encoding="utf-8"))
    (stage / "corpus.json").write_text(json.dumps(note | {"sha256": "0" * 64}), encoding="utf-8")
    with pytest.raises(UserError, match=r"^data: .*episodes\.parquet is not what .* was begun with"):
        place.train("iql", "moved")
    (stage / "corpus.json").write_text(json.dumps({**note, "sha256": None}), encoding="utf-8")
    place.train("iql", "moved")
    assert_same_end(place, "run", "moved", "iql")
    assert json.loads((stage / "corpus.json").read_text(encoding="utf-8")) == note


def test_jpo_is_not_continued_with_the_emotions_of_another_selector(place):
    before(place, "chosen", "jpo")
    with pytest.raises(RuntimeError, match="power cut"):
        place.train("jpo", "chosen", "+callbacks.cut._target_=tiny_runs.PowerCut", "+callbacks.cut.step=1")
    forget_cut(place.folder / "chosen" / "jpo")
    checkpoint = place.folder / "chosen" / "iql" / "best.ckpt"
    kept = torch.load(checkpoint, weights_only=True)
    kept["state_dict"] = {name: value + 1 for name, value in kept["state_dict"].items()}
    torch.save(kept, checkpoint)
    with pytest.raises(UserError, match=r"jpo was begun with other data\.dataset\.choices\.checkpoint, made anew"):
        place.train("jpo", "chosen")


def test_the_curves_go_on_in_one_folder(place):
    before(place, "curves", "sft")
    cut_and_resume(place, "sft", "curves", 3)
    stage = place.folder / "curves" / "sft"
    assert {folder.name for folder in stage.iterdir() if folder.is_dir()} == {"tensorboard", "adapter"}
    curves = EventAccumulator(str(stage / "tensorboard")).Reload()
    steps = [event.step for event in curves.Scalars("train/loss")]
    assert steps == [0, 1, 3, 4, 5]  # the power went before step 2 could be shown; nothing comes twice


@pytest.mark.parametrize("steps", [3, 6])
def test_the_last_step_of_the_selector_is_validated(place, steps):
    """Validations are after every 4 steps: without one at the end a short run has no best.ckpt."""
    length = f"size.iql_steps={steps}"
    run = f"short_{steps}"
    place.train("iql", run, length)
    stage = place.folder / run / "iql"
    curves = EventAccumulator(str(stage / "tensorboard")).Reload()
    assert curves.Scalars("val/fqe_value")[-1].step >= steps - 1  # Lightning counts steps from 0
    assert json.loads((stage / "finished.json").read_text())["best"] is not None and (stage / "best.ckpt").is_file()
    cut_and_resume(place, "iql", f"cut_{run}", steps - 1, overrides=(length,))
    assert_same_end(place, run, f"cut_{run}", "iql")


@pytest.mark.parametrize("stage", ["iql", "sft"])
def test_a_stage_that_runs_out_of_time_is_not_finished_and_goes_on_with_more(place, stage):
    run = f"timed_{stage}"
    before(place, run, stage)
    with pytest.raises(UserError, match=rf"{run}/{stage} stopped after \d steps, when trainer.max_time was over"):
        place.train(stage, run, "+trainer.max_time=00:00:00:00")
    folder = place.folder / run / stage
    assert not (folder / "finished.json").exists() and not (folder / "adapter").exists()
    place.train(stage, run, "+trainer.max_time=01:00:00:00")
    assert (folder / "finished.json").is_file()
    assert_same_end(place, "run", run, stage)


@pytest.mark.parametrize("step", [1, 4])
def test_a_stop_by_time_is_validated_only_where_the_whole_run_is(place, step):
    """Entropy falls from the first step on: a validation at the stop would be the best one. One is due at step 4."""
    entropy = ("monitor.metric=val/policy_entropy", "learner.learning_rates={q: 1e-3, v: 1e-3, policy: 0.05}")
    if not (place.folder / "entropy").exists():
        place.train("iql", "entropy", *entropy)
    run, time_limit = f"entropy_{step}", "+trainer.max_time=01:00:00:00"
    cut = ("+callbacks.cut._target_=tiny_runs.OutOfTime", f"+callbacks.cut.step={step}")
    with pytest.raises(UserError, match=rf"{run}/iql stopped after {step} steps, when trainer.max_time was over"):
        place.train("iql", run, *entropy, *cut, time_limit)
    forget_cut(place.folder / run / "iql")
    assert (place.folder / run / "iql" / "best.ckpt").exists() == (step == 4)
    place.train("iql", run, *entropy, time_limit)
    assert_same_end(place, "entropy", run, "iql")


def test_another_seed_is_another_run(place):
    """What the comparisons above would miss if every run ended alike."""
    place.train("iql", "seed", "seed=1")
    assert not same(place.weights("run", "iql"), place.weights("seed", "iql"))


def test_a_killed_process_is_gone_on_with(place, capsys):
    """SIGKILL, which nothing can catch, then the same words again: the same weights as without."""
    long = ("size.iql_steps=40", "size.iql_val_every=20", "monitor.save_every=4", "trainer.log_every_n_steps=1")
    place.train("iql", "whole", *long)
    words = ["stage=iql", "trainer.accelerator=cpu", *batches("iql")]
    words += ["callbacks.progress_bar=null", "+trainer.enable_progress_bar=false"]
    words += [f"judge.ledger.path={place.folder / 'ledger.sqlite'}", *place.overrides("killed"), *long]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("HYDRA_FULL_ERROR", None)
    last = place.folder / "killed" / "iql" / "last.ckpt"
    command = [sys.executable, "train.py", *words]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (last.parent / "finished.json").exists()
    curves = EventAccumulator(str(last.parent / "tensorboard")).Reload()
    assert {"train/q_loss"} <= set(curves.Tags()["scalars"])  # as far as the checkpoint, curves are on disk
    train(composed("train", *words))
    assert f"continuing {last}" in capsys.readouterr().out
    assert_same_end(place, "whole", "killed", "iql")
