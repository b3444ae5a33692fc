"""What a stage took is counted, kept over a cut, and written where studies read it."""

import json

import lightning as L
import pytest
import torch
from tiny_runs import begun

from callbacks.throughput import Throughput, amounts, peak_memory_gib
from emodistill.data.transitions import Transitions


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return begun(tmp_path_factory, "throughput", "iql", "sft")


def test_what_training_took_is_kept_and_goes_on_after_a_cut(place):
    for stage in ("iql", "sft"):
        taken = json.loads((place.folder / "run" / stage / "finished.json").read_text())
        assert taken["throughput/training_seconds"] > 0
        assert (taken["throughput/training_tokens"] > 0) == (stage != "iql")
    saved = torch.load(place.folder / "run" / "sft" / "last.ckpt", weights_only=True)["callbacks"]["Throughput"]
    resumed = Throughput()
    resumed.load_state_dict({"seconds": 100.0, "tokens": 7})
    trainer = L.Trainer(logger=False, enable_checkpointing=False)
    resumed.on_train_start(trainer, L.LightningModule())
    resumed.on_validation_end(trainer, L.LightningModule())
    assert 100.0 < resumed.state_dict()["seconds"] < 160.0 and resumed.state_dict()["tokens"] == 7
    assert saved["seconds"] > 0 and saved["tokens"] > 0


def test_a_trainer_that_logs_nothing_is_not_divided_by():
    trainer = L.Trainer(logger=False, enable_checkpointing=False, log_every_n_steps=0)
    watch = Throughput()
    rows = Transitions(*(torch.zeros(5) for _ in Transitions._fields))
    watch.on_train_batch_end(trainer, L.LightningModule(), None, rows, 0)
    assert watch.seconds > 0


def test_a_sanity_check_before_training_is_no_time_of_it():
    resumed = Throughput()
    resumed.load_state_dict({"seconds": 100.0, "tokens": 7})
    trainer = L.Trainer(logger=False, enable_checkpointing=False)
    trainer.sanity_checking = True
    resumed.on_validation_end(trainer, L.LightningModule())
    trainer.sanity_checking = False
    resumed.on_train_start(trainer, L.LightningModule())
    resumed.on_validation_end(trainer, L.LightningModule())
    assert 100.0 < resumed.state_dict()["seconds"] < 160.0


def test_the_memory_of_training_on_a_cpu_is_that_of_the_process(monkeypatch):
    """Though there is a GPU, which nobody uses."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda *_: 0)
    assert peak_memory_gib(torch.device("cpu")) > 0


def test_what_a_batch_weighs():
    rows = Transitions(*(torch.zeros(5) for _ in Transitions._fields))
    assert amounts(rows) == (5, 0)
    assert amounts(object()) == (0, 0)
