"""What tests of the two language-model learners share: settings, judges, learners, and a run of a few steps."""

import warnings

import lightning as L
import pytest
import torch
from episodes import make_episode
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from emodistill.data.chat_datasets import SFTBatches, collate_judged
from emodistill.data.chats import ChatEncoder, collate_encoded
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.learners.jpo import JPOLearner
from emodistill.learners.sft import SFTLearner
from emodistill.policy.chat_format import ChatFormat

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}
OPTIMIZER = {"learning_rate": 1e-2, "weight_decay": 0.0, "warmup_steps": 0, "schedule": "constant"}
JUDGING = {"look_ahead": 3, "timeout_s": 20.0, "min_group": 2, "max_unscored_batches": None}
JPO = {"clip_range": 0.2, "kl_coef": 0.04, "negative_weight": 1.0, "samples": 4, "judging": JUDGING, "seed": 0}


def policy_settings(model, **changes):
    given = {"base_model": model, "lora": LORA, "four_bit": True, "compute_dtype": "float32"}
    return given | {"vocabulary": "goemotions28"} | changes


def make_encoder(model, max_tokens=4096):
    return ChatEncoder(ChatFormat(AutoTokenizer.from_pretrained(model), load_vocabulary()), max_tokens)


def make_episodes(count=4):
    """Episodes of two scenarios."""
    return [make_episode(2, number=i % 2, seed=i) for i in range(count)]


def batches(chats, size):
    """Training batches for SFT, which know their optimizer step."""
    return list(SFTBatches(chats, size, seed=0, pad_id=0))


def validation_batches(chats, size):
    return [collate_encoded(chats[i : i + size], pad_id=0) for i in range(0, len(chats), size)]


def batch_of(items):
    return collate_judged(items, pad_id=0)


def make_sft_learner(model, dropout=True, **optimizer):
    torch.manual_seed(0)
    settings = policy_settings(model)
    settings["lora"] = settings["lora"] | ({} if dropout else {"lora_dropout": 0.0})
    return SFTLearner(settings, OPTIMIZER | optimizer)


def make_jpo_learner(model, sft_adapter, judge=None, sampler=None, learning_rate=1e-2, **changes):
    settings = policy_settings(model, init_adapter=sft_adapter)
    optimizer = OPTIMIZER | {"learning_rate": learning_rate}
    return JPOLearner(settings, optimizer, **(JPO | changes), judge=judge, sampler=sampler)


class RoundJudge:
    """Likes second rounds, dislikes first ones; None for utterances it was told to leave out. Counts its work."""

    def __init__(self, silent_on=(), flat=False):
        self.silent_on, self.flat, self.asked = silent_on, flat, []

    def scores(self, requests, on_score=None):
        self.asked += [request.utterance for request in requests]
        found = [None if r.utterance in self.silent_on else self.score(r) for r in requests]
        for place, score in enumerate(found):
            if on_score is not None:
                on_score(place, score)
        return found

    def score(self, request):
        return 5.0 if self.flat else (9.0 if request.history else 2.0)


class VowelJudge(RoundJudge):
    """The more vowels, the better: sampled replies differ in them by chance."""

    def score(self, request):
        return 1.0 + min(9.0, sum(letter in "aeiou" for letter in request.utterance))


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


class Watched:
    """A sampler that notes what it does."""

    def __init__(self, sampler):
        self.sampler, self.text, self.notes = sampler, sampler.text, []

    def refresh(self, policy):
        self.notes.append("refresh")
        self.sampler.refresh(policy)

    def sample(self, *arguments):
        self.notes.append("sample")
        return self.sampler.sample(*arguments)


class Keeping(DummyLogger):
    """A logger that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)
