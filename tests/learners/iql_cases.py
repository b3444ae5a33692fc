"""A small IQL learner, a batch for it, and a data module with the statistics of an imagined corpus."""

import lightning as L
import torch
from torch.utils.data import DataLoader

from emodistill.data.transitions import TransitionEpisodes
from emodistill.learners.iql import IQLLearner, Transitions

SETTINGS = {
    "observation_dim": 4,
    "num_emotions": 5,
    "hidden_dims": [16],
    "discount": 0.9,
    "expectile": 0.7,
    "inverse_temperature": 3.0,
    "max_advantage_weight": 100.0,
    "polyak": 0.1,
    "learning_rates": {"q": 1e-3, "v": 2e-3, "policy": 3e-3},
}
STATS = {
    "labels": ["anger", "fear", "joy", "sadness", "neutral"],
    "vocabulary": "five",
    "fingerprint": "5f",
    "action_mask": [True, True, False, True, True],
    "reward_scale": 4.0,
    "observation_mean": [1.0, -1.0, 0.0, 2.0],
    "observation_std": [2.0, 0.5, 1.0, 3.0],
    "observation": "full",
}
HEADS = ("q", "v", "policy")


def make(**changes):
    torch.manual_seed(0)
    return IQLLearner(**{**SETTINGS, **changes})


def make_batch(rows=24, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Transitions(
        torch.randn(rows, 4, generator=generator),
        torch.tensor([0, 1, 3, 4])[torch.randint(4, (rows,), generator=generator)],
        torch.randn(rows, generator=generator),
        torch.randn(rows, 4, generator=generator),
        (torch.rand(rows, generator=generator) < 0.3).float(),
    )


def step(learner, optimizer, batch):
    optimizer.zero_grad()
    sum(learner.losses(batch).values()).backward()
    optimizer.step()
    learner.update_target()


def quiet_trainer(**settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(accelerator="cpu", enable_model_summary=False, **{**quiet, **settings})


class Data(L.LightningDataModule):
    """Some batches, and the statistics of the corpus they came from."""

    def __init__(self, batches=12, **changes):
        super().__init__()
        self.batches, self.changes = [make_batch(seed=seed) for seed in range(batches)], changes

    def setup(self, stage):
        self.dataset_stats = {**STATS, **self.changes}

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None)

    def val_dataloader(self):
        count = torch.arange(30)
        rows = make_batch(30)._replace(terminal=(count % 3 == 2).float())
        split = TransitionEpisodes(rows, count // 3, count % 3, torch.full((30,), 0.2))
        own = torch.Generator()  # or else each pass draws a seed from the global one
        return DataLoader([split], batch_size=None, generator=own)
