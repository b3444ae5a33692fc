"""Shares of a corpus: whoever plays them, the whole is the same; what does not fit is refused or played anew."""

import pytest
from selfplay_cases import make, seats

from emodistill.data.schema import read_episodes, write_episodes
from emodistill.errors import UserError
from emodistill.execution.local import LocalExecutor


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    corpus = make(tmp_path_factory.mktemp("whole"))
    corpus.build()
    return corpus


def files(corpus):
    return {path.name: path.read_bytes() for path in corpus.folder.iterdir() if path.name != ".lock" and path.is_file()}


@pytest.mark.parametrize("count", [1, 3, 10])
def test_shares_make_the_same_corpus(whole, tmp_path, count):
    for i in reversed(range(count)):
        share = make(tmp_path, shard=f"{i + 1}/{count}")
        share.build()
        with pytest.raises(UserError, match=f"shard {i + 1}/{count} of a corpus is not the corpus"):
            share.episodes()
    focal, counterparty = seats()
    put_together = make(tmp_path, focal, counterparty)
    put_together.build()
    assert focal.backend.opened == 0 and files(put_together) == files(whole)
    assert make(tmp_path, shard="1/3").episodes() == whole.episodes()  # the whole is there


def test_workers_make_the_same_corpus(whole, tmp_path):
    corpus = make(tmp_path, executor=LocalExecutor(workers=2))
    corpus.build()
    assert files(corpus) == files(whole) and not (corpus.folder / "parts").exists()


def test_what_no_share_has_played_is_played_at_the_end(whole, tmp_path):
    make(tmp_path, shard="2/3").build()
    parts = list((make(tmp_path).folder / "parts").glob("*.parquet"))
    ages = {part: part.stat().st_mtime_ns for part in parts}
    make(tmp_path, shard="2/3").build()
    assert len(parts) == 3 and ages == {part: part.stat().st_mtime_ns for part in parts}
    corpus = make(tmp_path)
    corpus.build()
    assert files(corpus) == files(whole)


def test_parts_of_another_recipe_are_not_taken(whole, tmp_path):
    other = make(tmp_path, split_seed=5, shard="1/1")
    other.build()
    (tmp_path / make(tmp_path).folder.name).mkdir()
    (other.folder / "parts").rename(make(tmp_path).folder / "parts")
    corpus = make(tmp_path)
    corpus.build()
    assert files(corpus) == files(whole)


def test_a_part_that_does_not_hold_its_episodes_is_refused(tmp_path):
    make(tmp_path, shard="1/1").build()
    corpus = make(tmp_path)
    first, second = sorted((corpus.folder / "parts").glob("*.parquet"))[:2]
    write_episodes(read_episodes(second), first)
    with pytest.raises(UserError, match="does not hold the episodes that it should; delete it"):
        corpus.build()
    first.unlink()
    corpus.build()


def test_more_shares_than_batches_are_refused(tmp_path):
    with pytest.raises(UserError, match="there are 10 batches"):
        make(tmp_path, shard="11/11").build()


def test_a_share_that_cannot_be_meant(tmp_path):
    with pytest.raises(UserError, match="write i/n"):
        make(tmp_path, shard="4/3")
