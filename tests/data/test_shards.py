"""Shards of a corpus: whoever plays them, the whole is the same; what does not fit together is refused."""

import json
from dataclasses import replace

import pytest
from selfplay_cases import make, seats

from emodistill.data.corpus import Shard
from emodistill.data.schema import read_episodes, write_episodes
from emodistill.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    corpus = make(tmp_path_factory.mktemp("whole"))
    corpus.build()
    return corpus


@pytest.mark.parametrize("count", [1, 3, 10])
def test_shards_make_the_same_corpus(whole, tmp_path, count):
    for i in reversed(range(count)):
        shard = make(tmp_path, shard=f"{i + 1}/{count}")
        shard.build()
        with pytest.raises(UserError, match=f"shard {i + 1}/{count} of a corpus is not the corpus"):
            shard.episodes()
    focal, counterparty = seats()
    merged = make(tmp_path, focal, counterparty)
    merged.build()
    assert (
        focal.backend.opened == 0 and merged.episodes() == whole.episodes() and merged.folder.name == whole.folder.name
    )


@pytest.fixture
def sharded(tmp_path):
    for i in (1, 2, 3):
        make(tmp_path, shard=f"{i}/3").build()
    return make(tmp_path)


def test_a_missing_or_unfinished_shard_is_named(sharded):
    (sharded.folder / "shard-2-of-3" / "shard.json").unlink()
    with pytest.raises(UserError, match="lacks the finished shards 2/3"):
        sharded.build()
    make(sharded.root, shard="2/3").build()
    sharded.build()


def test_a_shard_of_another_recipe_is_refused(sharded):
    file = sharded.folder / "shard-2-of-3" / "shard.json"
    content = json.loads(file.read_text())
    content["recipe"]["split_seed"] = 5
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="shard-2-of-3 was played by another recipe .split_seed differ"):
        sharded.build()


def test_shards_of_different_counts_are_refused(sharded):
    make(sharded.root, shard="1/2").build()
    with pytest.raises(UserError, match="different counts"):
        sharded.build()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda mine, other: mine[1:], "is in no shard"),
        (lambda mine, other: [*mine, other[0]], "is in two shards"),
        (lambda mine, other: [*mine, mine[0]], "is in two shards"),
        (lambda mine, other: [*mine, replace(mine[0], seed=99)], "does not belong to this corpus"),
    ],
)
def test_gaps_and_doubles_are_refused(sharded, change, named):
    first, second = (Shard(i, 3) for i in (1, 2))
    file = first.folder(sharded.folder) / "episodes.parquet"
    changed = change(read_episodes(file), read_episodes(second.folder(sharded.folder) / "episodes.parquet"))
    write_episodes(changed, file)
    with pytest.raises(UserError, match="not as it was written"):
        sharded.build()
    first.finish(sharded.folder, sharded.recipe())
    with pytest.raises(UserError, match=named):
        sharded.build()


def test_more_shards_than_batches_are_refused(tmp_path):
    with pytest.raises(UserError, match="there are 10 batches"):
        make(tmp_path, shard="11/11").build()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_shard_that_cannot_be_meant(tmp_path, text):
    with pytest.raises(UserError, match="write i/n"):
        make(tmp_path, shard=text)
