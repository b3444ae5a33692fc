"""Observers only look: without any of them the weights are the same, to the last bit."""

import gc
import weakref
from datetime import timedelta

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import SingleDeviceStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import begun

from callbacks import AdapterExport, HParamsTab, LastCheckpoint
from callbacks.emotion_usage import table
from emodistill.errors import UserError
from emodistill.learners.async_judge import AsyncJudge
from emodistill.policy.expression_policy import ExpressionPolicy

OBSERVERS = {
    "iql": ["emotion_usage", "throughput", "hparams_tab"],
    "sft": ["samples", "throughput", "hparams_tab"],
    "jpo": ["samples"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return begun(tmp_path_factory, "callbacks", *OBSERVERS)


@pytest.mark.parametrize("stage", OBSERVERS)
def test_without_any_observer_the_weights_are_the_same(place, stage):
    """Sampling for people to read touches neither the generators nor the mode of the policy: dropout is on in SFT."""
    run = f"unseen-{stage}"
    place.copy("run", run, list(OBSERVERS)[: list(OBSERVERS).index(stage)])
    place.train(stage, run, *(f"callbacks.{name}=null" for name in OBSERVERS[stage]))
    seen, unseen = place.weights("run", stage), place.weights(run, stage)
    assert seen.keys() == unseen.keys() and all(torch.equal(seen[name], unseen[name]) for name in seen)


@pytest.fixture
def copies(monkeypatch):
    """The merged copies of the model that are made, as weak references."""
    made, merged = [], ExpressionPolicy.merged

    def noted(policy, dtype, device=None):
        copy = merged(policy, dtype, device)
        made.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(ExpressionPolicy, "merged", noted)
    return made


def test_jpo_holds_one_merged_copy_and_asks_one_judge(place, copies, monkeypatch):
    """The samples are the learner's to draw: a second copy of the model would cost its whole memory again."""
    judges, ask = set(), AsyncJudge.ask
    monkeypatch.setattr(AsyncJudge, "ask", lambda judge, requests: judges.add(judge) or ask(judge, requests))
    place.copy("run", "one-copy", ["iql", "sft"])
    place.train("jpo", "one-copy")
    assert len(copies) == 1 and len(judges) == 1


class Look(L.Callback):
    """Counts the copies that are alive after each batch."""

    copies, alive = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        gc.collect()
        self.alive.append(sum(copy() is not None for copy in self.copies))


def test_sft_holds_a_merged_copy_only_while_it_is_validated(place, copies, monkeypatch):
    monkeypatch.setattr(Look, "copies", copies)
    monkeypatch.setattr(Look, "alive", [])
    place.copy("run", "no-copy", ["iql"])
    place.train("sft", "no-copy", f"+callbacks.look._target_={__name__}.Look")
    assert len(copies) == 3 and Look.alive == [0] * 6


class Adapter(torch.nn.Module):
    """Writes its only number where an adapter would go."""

    identity = {"base_model": "embedded", "fingerprint": "f00d", "vocabulary": "ekman7"}

    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(value))

    def save_adapter(self, folder, state):
        folder.mkdir()
        torch.save(state["weight"].item(), folder / "number")


class Module(L.LightningModule):
    def __init__(self, value):
        super().__init__()
        self.policy = Adapter(value)


class Ended:
    """What an export asks of a trainer."""

    global_step, max_steps = 12, 20
    callback_metrics = {"val/loss": torch.tensor(1.5), "train/loss": torch.tensor(9.0)}

    def __init__(self, module, interrupted=False, is_global_zero=True, timers=()):
        self.interrupted, self.is_global_zero = interrupted, is_global_zero
        self.callbacks = [HParamsTab("val/loss"), *timers]
        self.strategy = SingleDeviceStrategy()
        self.strategy.connect(module)


@pytest.fixture
def best(tmp_path):
    chosen = {"monitor": "val/loss", "best_model_score": torch.tensor(1.25)}
    callbacks = {"ModelCheckpoint{...}": chosen, "LastCheckpoint": {}}
    saved = {"state_dict": {"policy.weight": torch.tensor(7.0)}, "global_step": 8, "callbacks": callbacks}
    torch.save(saved, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def exported(folder):
    return torch.load(folder / "number", weights_only=True)


def test_the_best_adapter_is_exported_and_the_module_stays_as_it_is(tmp_path, best):
    module = Module(3.0)
    AdapterExport(str(tmp_path / "adapter"), str(best)).on_fit_end(Ended(module), module)
    assert exported(tmp_path / "adapter") == 7.0
    assert module.policy.weight.item() == 3.0
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "12 optimizer steps. The weights are those of step 8, the best validation (`val/loss` 1.25)." in card
    assert "After 12 steps" in card and "| val/loss | 1.5 |" in card and "train/loss" not in card


def test_without_a_best_one_the_last_is_exported(tmp_path):
    module = Module(3.0)
    AdapterExport(str(tmp_path / "adapter"), str(tmp_path / "none.ckpt")).on_fit_end(Ended(module), module)
    assert exported(tmp_path / "adapter") == 3.0
    assert "The weights are those of the last step." in (tmp_path / "adapter" / "README.md").read_text()


@pytest.mark.parametrize(
    "end", [{"interrupted": True}, {"is_global_zero": False}, {"timers": [Timer(timedelta(seconds=0))]}]
)
def test_a_run_that_was_interrupted_exports_nothing(tmp_path, best, end):
    module = Module(3.0)
    AdapterExport(str(tmp_path / "adapter"), str(best)).on_fit_end(Ended(module, **end), module)
    assert not (tmp_path / "adapter").exists()


class Falling(L.LightningModule):
    """Its only weight falls from 3 by 0.1 a step."""

    def __init__(self):
        super().__init__()
        self.policy = Adapter(3.0)

    def training_step(self, batch, _):
        return self.policy.weight * batch.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fall(folder, steps, resumed=None, accumulate=1, **averaging):
    """Train with an export to `folder / adapter`; returns its trainer and the module."""
    module = Falling()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        callbacks=[AdapterExport(str(folder / "adapter"), str(folder / "none.ckpt"), **averaging)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    rows = torch.utils.data.DataLoader(torch.ones(accumulate, 1))  # a step is an epoch
    trainer.fit(module, rows, ckpt_path=resumed, weights_only=True)
    return trainer, module


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_mean_of_the_last_weights_can_be_exported(tmp_path, accumulate):
    _, module = fall(tmp_path, 7, accumulate=accumulate, average_last=3, every_n_steps=2)
    assert exported(tmp_path / "adapter") == pytest.approx(3.0 - 0.4)  # after 2, 4 and 6 steps
    assert module.policy.weight.item() == pytest.approx(3.0 - 0.7)  # as training left it
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "The weights are the mean of those after steps 2, 4, 6." in card


@pytest.mark.parametrize(
    ("steps", "said", "weight"), [(5, "gave 2 of the 3 weights", 2.7), (1, "gave 0 of the 3", 2.9)]
)
def test_a_run_too_short_to_average_says_so(tmp_path, caplog, steps, said, weight):
    fall(tmp_path, steps, average_last=3, every_n_steps=2)
    assert said in caplog.text
    assert exported(tmp_path / "adapter") == pytest.approx(weight)


def test_a_run_that_goes_on_averages_what_an_unbroken_one_does(tmp_path):
    (tmp_path / "one").mkdir()
    trainer, _ = fall(tmp_path / "one", 5, average_last=3, every_n_steps=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fall(tmp_path, 7, resumed=str(tmp_path / "last.ckpt"), average_last=3, every_n_steps=2)
    assert exported(tmp_path / "adapter") == pytest.approx(3.0 - 0.4)


def test_averaging_is_off_unless_it_is_asked_for(tmp_path):
    trainer, _ = fall(tmp_path, 3)
    assert exported(tmp_path / "adapter") == pytest.approx(3.0 - 0.3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not saved["callbacks"]  # no byte more in a checkpoint
    with pytest.raises(UserError, match="average_last=1"):
        AdapterExport("adapter", "best.ckpt", average_last=1)


def test_the_hparams_record_is_written_once_and_names_the_metric(place):
    folder = place.folder / "run" / "iql" / "tensorboard"
    records = EventAccumulator(str(folder)).Reload().summary_metadata
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(records)
    assert b"val/fqe_value" in records["_hparams_/experiment"].plugin_data.content
    saved = torch.load(place.folder / "run" / "iql" / "last.ckpt", weights_only=True)
    assert saved["callbacks"]["HParamsTab"] == {"written": True}
    resumed = HParamsTab("val/fqe_value")
    resumed.load_state_dict({"written": True})
    resumed.on_validation_end(None, None)  # asks nothing of a trainer: all is done


class Count(L.Callback):
    """The steps at which `last.ckpt` was written."""

    def __init__(self):
        self.steps = []

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.steps.append(trainer.global_step)


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("every", "accumulate", "validated", "expected"),
    [
        (2, 1, 1.0, [2, 3, 4, 6, 8, 9]),  # validations after 3, 6 and 9 steps
        (5, 1, 1.0, [3, 5, 6, 9]),
        (1, 3, 1.0, [1, 2, 3]),  # three batches a step: one checkpoint a step, none in between
        (9, 2, 1, [1, 2, 3, 4, 5, 6]),  # validations in the middle of a step: the checkpoint waits for its end
    ],
)
def test_a_checkpoint_every_few_steps_and_after_each_validation(tmp_path, every, accumulate, validated, expected):
    count = Count()
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        val_check_interval=validated,
        num_sanity_val_steps=0,
        callbacks=[count, LastCheckpoint(str(tmp_path / "last.ckpt"), every)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    rows = torch.utils.data.DataLoader(torch.ones(3, 1))
    trainer.fit(Line(), rows, rows)
    assert count.steps == expected
    trainer.validate(Line(), rows, verbose=False)
    assert count.steps == expected


def test_the_table_of_emotions_puts_favourites_first():
    shares = {"corpus": torch.tensor([0.5, 0.3, 0.2]), "greedy": torch.tensor([0.0, 1.0, 0.0])}
    assert table(["anger", "joy", "fear"], shares).splitlines()[2:] == [
        "| joy | 0.300 | 1.000 |",
        "| anger | 0.500 | 0.000 |",
        "| fear | 0.200 | 0.000 |",
    ]
