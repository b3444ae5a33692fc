"""What `train.py` returns to a sweeper of Hydra: the monitored metric at its best."""

import json

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from train import best_of, objective


def trained(place, run, *overrides):
    trainer = place.train("iql", run, *overrides)
    return trainer, objective(place.config("iql", run, *overrides))


def test_a_finished_stage_returns_its_monitored_metric_at_its_best(place):
    steps = ["size.iql_steps=12", "size.iql_val_every=2", "learner.learning_rates={q: 0.03, v: 0.03, policy: 0.03}"]
    trainer, found = trained(place, "objective", *steps)
    folder = place.folder / "objective" / "iql"
    best = torch.load(folder / "best.ckpt", weights_only=True)
    (state,) = (state for name, state in best["callbacks"].items() if name.startswith("ModelCheckpoint"))
    assert state["monitor"] == "val/fqe_value"
    assert found == best_of(trainer) == float(state["best_model_score"])
    finished = json.loads((folder / "finished.json").read_text(encoding="utf-8"))
    assert found > finished["val/fqe_value"]  # not that of the last validation
    assert place.train("iql", "objective", *steps) is None  # nothing is left to do
    assert objective(place.config("iql", "objective", *steps)) == found


def test_a_stage_that_is_not_finished_returns_nothing(place):
    assert objective(place.config("iql", "never-begun")) is None


def test_a_stage_whose_checkpoint_monitors_nothing_returns_nothing(place):
    """A checkpoint without a metric is the newest one, not the best."""
    trainer, found = trained(place, "unmonitored", "callbacks.checkpoint.monitor=null")
    assert any(isinstance(callback, ModelCheckpoint) for callback in trainer.checkpoint_callbacks)
    assert best_of(trainer) is None and found is None
