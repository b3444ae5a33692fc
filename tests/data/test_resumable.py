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


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(UserError, match="selection of turns is empty"):
        ResumableBatches([], 3, 0, list)
    with pytest.raises(UserError, match="batch_size=0"):
        loader(size=0)
