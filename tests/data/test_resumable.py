"""Order and cursor of the loader of chats."""

import pytest

from emodistill.data.batches import ResumableBatches
from emodistill.errors import UserError


def loader(seed=0, items=10, size=3):
    return ResumableBatches(list(range(items)), size, seed, list)


def epoch(batches, number):
    batches.set_epoch(number)
    return list(batches)


def test_order_is_a_permutation_fixed_by_seed_and_epoch():
    batches = epoch(loader(), 0)
    assert sorted(sum(batches, [])) == list(range(10))
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    assert batches == epoch(loader(), 0)
    orders = {tuple(sum(epoch(loader(seed), number), [])) for seed in (0, 1) for number in (0, 1)}
    assert len(orders) == 4


@pytest.mark.parametrize("stop", range(5))
def test_a_cursor_continues_in_the_middle_of_an_epoch(stop):
    first, second = loader(), loader()
    first.set_epoch(2)
    stream = iter(first)
    served = [next(stream) for _ in range(stop)]
    second.load_state_dict(first.state_dict())
    rest = epoch(second, 2)
    assert served + rest == epoch(loader(), 2)
    assert epoch(second, 3) == epoch(loader(), 3)  # the cursor is used once


def test_ranks_share_an_epoch_without_overlap_and_with_equal_counts():
    ranks = [loader(items=12, size=3) for _ in range(2)]
    for rank, batches in enumerate(ranks):
        batches.rank, batches.world_size = rank, 2
    seen = [epoch(batches, 0) for batches in ranks]
    assert len(seen[0]) == len(seen[1]) == len(ranks[0])
    assert sorted(sum(seen[0] + seen[1], [])) == list(range(12))


class Noted(list):
    """A batch that can be told that it does not count."""

    counts = True


def shared(rank, devices, items=22, size=3):
    batches = ResumableBatches(list(range(items)), size, 0, Noted)
    batches.rank, batches.world_size = rank, devices
    return batches


def in_steps(devices, accumulated=4, state=None):
    """What each optimizer step of epoch 2 learns from, with so many devices."""
    ranks = [shared(rank, devices) for rank in range(devices)]
    for batches in ranks:
        batches.set_epoch(2)
        if state:
            batches.load_state_dict(state)
    share = accumulated // devices
    found = [list(batches) for batches in ranks]
    assert len({len(own) for own in found}) == 1
    numbers = range(0, len(found[0]), share)
    return [
        sorted(item for own in found for batch in own[n : n + share] if batch.counts for item in batch) for n in numbers
    ]


@pytest.mark.parametrize("devices", [2, 4])
def test_a_step_has_the_same_items_on_any_number_of_devices(devices):
    """Eight batches of 22 items, the last of one item."""
    assert in_steps(devices) == in_steps(1)
    assert in_steps(devices, accumulated=8) == in_steps(1, accumulated=8)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_cursor_serves_another_number_of_devices(before, after, stop):
    batches = shared(0, before)
    batches.set_epoch(2)
    stream = iter(batches)
    for _ in range(stop * 4 // before):
        next(stream)
    assert batches.state_dict() == {"epoch": 2, "served": stop * 4}
    assert in_steps(after, state=batches.state_dict()) == in_steps(1)[stop:]


def test_devices_without_a_batch_of_their_own_repeat_the_last_one_and_it_does_not_count():
    found = [list(shared(rank, 3)) for rank in range(3)]  # eight batches for three devices
    assert [[batch.counts for batch in own] for own in found] == [[True] * 3, [True] * 3, [True, True, False]]
    assert found[2][2] == found[1][2]


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(UserError, match="selection of turns is empty"):
        ResumableBatches([], 3, 0, list)
    with pytest.raises(UserError, match="batch_size=0"):
        loader(size=0)
