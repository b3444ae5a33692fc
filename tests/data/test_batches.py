"""Batches cut out of tensors: their order, and that a stopped run goes on at the very next one."""

from collections import Counter

import lightning as L
import pytest
import torch

from emodistill.data.transitions import TransitionBatches, Transitions
from emodistill.errors import UserError


def make_table(rows=10):
    """The reward is the number of the row."""
    number = torch.arange(rows).float()
    return Transitions(number[:, None].repeat(1, 2), number.long(), number, -number[:, None].repeat(1, 2), number * 0)


def make_loader(rows=10, batch_size=4, batches=6, seed=0):
    return TransitionBatches(make_table(rows), batch_size, batches, seed)


def served(loader):
    return [batch.reward.tolist() for batch in loader]


def test_an_epoch_is_as_long_as_asked_and_every_batch_is_full():
    loader = make_loader(rows=3, batch_size=4, batches=6)
    assert len(loader) == 6 and [len(rows) for rows in served(loader)] == [4] * 6


def test_rows_stay_whole():
    for batch in make_loader():
        assert torch.equal(batch.observation[:, 0], batch.reward) and torch.equal(batch.action.float(), batch.reward)
        assert torch.equal(batch.next_observation[:, 1], -batch.reward) and not batch.terminal.any()


def test_every_row_is_used_equally_often_to_within_one():
    counts = Counter(row for batch in served(make_loader(rows=10, batch_size=4, batches=6)) for row in batch)
    assert set(counts) == set(range(10)) and set(counts.values()) == {2, 3}


def test_the_order_follows_from_seed_and_epoch_alone():
    one, two = make_loader(seed=1), make_loader(seed=1)
    torch.manual_seed(5)
    first = served(one)
    assert served(two) == first == served(one)
    assert served(make_loader(seed=2)) != first
    one.set_epoch(1)
    assert served(one) != first
    one.set_epoch(0)
    assert served(one) == first


@pytest.mark.parametrize("stop", [0, 1, 5, 6])
def test_a_stopped_epoch_goes_on_at_the_next_batch(stop):
    whole, broken, resumed = make_loader(), make_loader(), make_loader()
    for loader in (whole, broken, resumed):
        loader.set_epoch(3)
    iterator = iter(broken)
    for _ in range(stop):
        next(iterator)
    resumed.load_state_dict(broken.state_dict())
    assert served(resumed) == served(whole)[stop:]
    assert served(resumed) == served(whole)  # and only once


def test_a_cursor_of_another_epoch_skips_nothing():
    loader = make_loader()
    loader.load_state_dict({"epoch": 0, "served": 6})
    loader.set_epoch(1)
    assert len(served(loader)) == 6


def test_ranks_share_the_rows_between_them():
    """Six rows in three batches of two, one row of each for either rank: the batches of one device, cut in two."""
    ranks = [make_loader(rows=6, batch_size=2, batches=3) for _ in range(2)]
    for number, loader in enumerate(ranks):
        loader.rank, loader.world_size = number, 2
    first, second = (served(loader) for loader in ranks)
    assert [one + two for one, two in zip(first, second, strict=True)] == served(make_loader(6, 2, 3))
    assert ranks[0].state_dict() == {"epoch": 0, "served": 3}


class Watcher(L.LightningModule):
    """Notes the rows it is given; fails, once, after so many batches."""

    def __init__(self, fail_after=None):
        super().__init__()
        self.weight, self.rows, self.fail_after = torch.nn.Parameter(torch.zeros(())), [], fail_after

    def training_step(self, batch, batch_idx):
        self.rows.append(batch.reward.tolist())
        return self.weight * 1.0

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if len(self.rows) == self.fail_after:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/stop.ckpt")
            self.trainer.should_stop = True
            raise RuntimeError("power cut")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(L.LightningDataModule):
    """Carries the loader's cursor, as the project's data module does."""

    def __init__(self):
        super().__init__()
        self.loader = make_loader()

    def train_dataloader(self):
        return self.loader

    def state_dict(self):
        return self.loader.state_dict()

    def load_state_dict(self, state):
        self.loader.load_state_dict(state)


def fit(watcher, folder, **arguments):
    trainer = L.Trainer(
        max_steps=15,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(watcher, Data(), **arguments)
    return watcher.rows


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 12, 14])
def test_under_lightning_a_resumed_run_sees_what_it_would_have_seen(tmp_path, stop):
    whole = fit(Watcher(), tmp_path)
    broken = Watcher(fail_after=stop)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(broken, tmp_path)
    resumed = fit(Watcher(), tmp_path, ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert len(whole) == 15 and broken.rows + resumed == whole


@pytest.mark.parametrize(
    ("column", "value"), [("reward", float("nan")), ("observation", float("inf")), ("next_observation", float("nan"))]
)
def test_a_number_that_is_none_is_named_with_its_row(column, value):
    table = make_table()
    getattr(table, column)[6] = value
    with pytest.raises(UserError, match=f"transition 6 has a {column} "):
        TransitionBatches(table, 4, 6, 0)


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(UserError, match="no transition"):
        make_loader(rows=0)
    with pytest.raises(UserError, match="batch_size=0"):
        make_loader(batch_size=0)
    with pytest.raises(UserError, match="batches_per_epoch=0"):
        make_loader(batches=0)
