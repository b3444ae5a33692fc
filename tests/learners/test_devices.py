"""How an optimizer step is shared out among devices; trainings on two are in test_several_devices.py."""

from types import SimpleNamespace

import pytest

from emodistill.data.batches import ResumableBatches
from emodistill.data.transitions import TransitionBatches
from emodistill.errors import UserError
from emodistill.learners.devices import FullySharded, SharedSteps, recount, strategy_of


def trainer(devices, accumulated=8, every=24, strategy=None):
    return SimpleNamespace(
        world_size=devices, accumulate_grad_batches=accumulated, val_check_interval=every, strategy=strategy
    )


@pytest.mark.parametrize(("devices", "accumulated", "every"), [(1, 8, 24), (2, 4, 12), (8, 1, 3)])
def test_devices_share_the_batches_of_a_step(devices, accumulated, every):
    given, shares = trainer(devices), SharedSteps()
    shares.divide(given, ResumableBatches, batch_size=1)
    assert (given.accumulate_grad_batches, given.val_check_interval) == (accumulated, every)
    assert shares.state_dict() == {"at_once": devices}


def test_devices_share_the_rows_of_a_batch_of_the_selector():
    given, shares = trainer(2, accumulated=1, every=1.0), SharedSteps()
    shares.divide(given, TransitionBatches, batch_size=256)
    assert (given.accumulate_grad_batches, given.val_check_interval) == (1, 1.0)
    assert shares.state_dict() == {"at_once": 1}


def test_what_cannot_be_shared_evenly_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"3 devices cannot share the 8 batches .* trainer\.accumulate_grad_batches"):
        SharedSteps().divide(trainer(3), ResumableBatches, batch_size=2)
    with pytest.raises(UserError, match=r"3 devices cannot share a batch of 256 rows .* data\.dataset\.batch_size"):
        SharedSteps().divide(trainer(3), TransitionBatches, batch_size=256)
    with pytest.raises(UserError, match="the selector's networks are small"):
        SharedSteps().divide(trainer(2, strategy=FullySharded()), TransitionBatches, batch_size=256)


def test_strategies_have_names():
    assert strategy_of("auto") == "auto" and strategy_of("ddp") == "ddp"
    assert isinstance(strategy_of("fsdp"), FullySharded)
    with pytest.raises(UserError, match="trainer.strategy=deepspeed: choose auto, ddp or fsdp"):
        strategy_of("deepspeed")


def progress(total, current, ending=0):
    """Lightning's counters; at the end of a batch, that one is not completed yet."""
    return {
        name: {"ready": n, "started": n, "processed": n, "completed": n - ending}
        for name, n in (("total", total), ("current", current))
    }


@pytest.mark.parametrize(
    ("before", "now", "was", "served", "expected"),
    [
        (1, 2, (8, 8), 8, (4, 4)),  # in the first of epochs of 13 batches
        (2, 1, (4, 4), 8, (8, 8)),
        (1, 2, (21, 8), 8, (11, 4)),  # in the second: two devices have seven batches an epoch
        (2, 1, (11, 4), 8, (21, 8)),
        (1, 2, (13, 13), 13, (7, 7)),  # at the end of the first
        (2, 1, (7, 7), 13, (13, 13)),
        (4, 2, (4, 4), 13, (7, 7)),
    ],
)
@pytest.mark.parametrize("ending", [0, 1])
def test_progress_is_counted_as_the_new_number_of_devices_would_have(before, now, was, served, expected, ending):
    found = progress(*was, ending)
    recount(found, served, 13, before, now)
    assert found == progress(*expected, ending)
