"""What tests of the two language-model learners share: settings, a trainer, a judge, and a run of a few steps."""

import warnings

import lightning as L
import pytest
import torch
from episodes import make_episode
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from emodistill.data.chats import ChatEncoder
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.policy.chat import ChatFormat

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}
OPTIMIZER = {"learning_rate": 1e-2, "weight_decay": 0.0, "warmup_steps": 0, "schedule": "constant"}


def policy_settings(model, **changes):
    given = {"base_model": model, "lora": LORA, "four_bit": True, "compute_dtype": "float32"}
    return given | {"vocabulary": "goemotions28"} | changes


def make_encoder(model, max_tokens=4096):
    return ChatEncoder(ChatFormat(AutoTokenizer.from_pretrained(model), load_vocabulary()), max_tokens)


def make_episodes(count=4):
    """Episodes of two scenarios."""
    return [make_episode(2, number=i % 2, seed=i) for i in range(count)]


class Watch(L.Callback):
    """Keeps what was logged, batch by batch."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class Gradients(L.Callback):
    """Keeps the gradients of the latest optimizer step."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.named_parameters()
        self.latest = {name: p.grad.clone() for name, p in named if p.grad is not None}


class PowerCut(L.Callback):
    """Writes a checkpoint after a step and ends the run there."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("power cut")


def stop_and_resume(make_learner, batch, step, path, epochs=5):
    """Train on one batch an epoch, cut the power after `step` steps, go on in a new learner; returns that one."""
    with pytest.raises(RuntimeError, match="power cut"):
        fit(make_learner(), [batch], epochs=epochs, callbacks=[PowerCut(step, path)])
    resumed = make_learner()
    torch.manual_seed(999)  # a fresh process remembers nothing
    fit(resumed, [batch], epochs=epochs, ckpt_path=path)
    return resumed


def fit(learner, batches, epochs=1, val=None, ckpt_path=None, callbacks=(), **arguments):
    """Train through Lightning; returns the trainer and what was logged after each batch."""
    watch = Watch()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[watch, *callbacks],
        **arguments,
    )
    loaders = [DataLoader(rows, batch_size=None) if rows else None for rows in (batches, val)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*but have no `val_dataloader`")
        trainer.fit(learner, *loaders, ckpt_path=ckpt_path, weights_only=True)
    return trainer, watch.rows


def adapter(learner):
    return {name: tensor.detach().clone() for name, tensor in learner.state_dict().items()}


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
