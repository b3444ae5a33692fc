"""One DataModule for all stages: order by seed and epoch, a cursor, shares by rank."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from episodes import make_episode
from rewards import default_reward

from emodistill.data.module import NegotiationData
from emodistill.data.transitions import TransitionBatches, TransitionDataset, Transitions
from emodistill.errors import UserError


class Stored:
    """A corpus in memory that counts how often it is read."""

    def __init__(self, episodes):
        self.stored, self.read = episodes, 0

    def build(self):
        return Path(__file__)  # any file

    def episodes(self):
        self.read += 1
        return self.stored


def corpus(splits=("train", "train", "val", "test")):
    return Stored([replace(make_episode(number=i), split=split) for i, split in enumerate(splits)])


def make(stored=None, seed=0, batch_size=2, batches=5):
    view = TransitionDataset("goemotions28", "full", default_reward(), batch_size, batches)
    data = NegotiationData(stored or corpus(), view, seed)
    data.prepare_data()
    data.setup("fit")
    return data


def epoch(loader, number):
    loader.sampler.set_epoch(number)
    return [batch.observation for batch in loader]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_order_is_fixed_by_seed_and_epoch():
    first, again, other = make().train_dataloader(), make().train_dataloader(), make(seed=1).train_dataloader()
    assert same(epoch(first, 0), epoch(again, 0)) and same(epoch(first, 3), epoch(again, 3))
    assert not same(epoch(first, 0), epoch(first, 1))
    assert not same(epoch(first, 0), epoch(other, 0))


def test_a_cursor_goes_on_at_the_next_batch():
    whole = epoch(make().train_dataloader(), 2)
    broken = make()
    loader = broken.train_dataloader()
    loader.set_epoch(2)
    stream = iter(loader)
    served = [next(stream).observation for _ in range(3)]
    resumed = make()
    resumed.load_state_dict(broken.state_dict())
    assert same(served + epoch(resumed.train_dataloader(), 2), whole)
    assert same(epoch(resumed.train_dataloader(), 2), whole)  # once


def test_setup_twice_reads_once():
    stored = corpus()
    data = make(stored)
    data.setup("validate")
    assert stored.read == 1
    assert NegotiationData(stored, data.dataset, 0).state_dict() == {}


@pytest.mark.parametrize("missing", ["train", "val"])
def test_an_empty_split_is_named(missing):
    kept = [split for split in ("train", "val", "test") if split != missing]
    with pytest.raises(UserError, match=f"no valid episode in the split '{missing}'"):
        make(corpus(kept))
    stored = corpus()
    stored.stored = [replace(e, end="invalid") if e.split == missing else e for e in stored.stored]
    with pytest.raises(UserError, match=f"no valid episode in the split '{missing}'"):
        make(stored)


def test_splits_go_where_they_belong():
    data = make()
    assert len(data.dataset.train.action) == 2 * 3 and len(data.dataset.validation.transitions.action) == 3
    assert data.dataset_stats["vocabulary"] == "goemotions28" and len(data.dataset_stats["action_mask"]) == 28


def test_validation_batches_come_as_they_are_and_draw_nothing():
    data = make()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    (batch,) = list(data.val_dataloader())
    assert batch is data.dataset.validation
    assert torch.equal(torch.get_rng_state(), state)


def table(rows):
    number = torch.arange(rows).float()
    return Transitions(number[:, None], number.long(), number, number[:, None], number * 0)


def test_ranks_share_an_epoch_without_overlap():
    alone = TransitionBatches(table(12), 4, 3, seed=5)
    ranks = [TransitionBatches(table(12), 4, 3, seed=5) for _ in range(2)]
    for rank, loader in enumerate(ranks):
        loader.rank, loader.world_size = rank, 2
    steps = list(zip(*ranks, strict=True))
    assert len(steps) == len(ranks[0]) == 3
    together = [sorted(torch.cat([batch.action for batch in step]).tolist()) for step in steps]
    assert together == [sorted(batch.action.tolist()) for batch in alone]  # a step is the batch of one big process
    assert sorted(sum(together, [])) == list(range(12))


def test_a_rank_goes_on_from_its_cursor():
    def second():
        loader = TransitionBatches(table(12), 2, 3, seed=5)
        loader.rank, loader.world_size = 1, 2
        return loader

    broken, resumed = second(), second()
    stream = iter(broken)
    served = [next(stream)]
    resumed.load_state_dict(broken.state_dict())
    found = [batch.action.tolist() for batch in [*served, *resumed]]
    assert found == [batch.action.tolist() for batch in second()]


def test_the_loader_knows_its_rank_from_the_trainer():
    data = make()
    data.trainer = SimpleNamespace(global_rank=1, world_size=3)
    loader = data.train_dataloader()
    assert (loader.rank, loader.world_size) == (1, 3)
    data.trainer = None
    loader = data.train_dataloader()
    assert (loader.rank, loader.world_size) == (0, 1)
