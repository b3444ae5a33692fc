"""Files that are missing, damaged, in use or of another run are named with the way out; nothing made is lost."""

import errno
import json
from dataclasses import replace

import pytest
import torch
from tiny_model import build_tiny_model
from tiny_runs import files, train_on_other_data

from emodistill.data.schema import SCHEMA, read_episodes, write_episodes
from emodistill.files import exclusive


def test_an_earlier_stage_that_is_missing(place, refused):
    said = refused(lambda: place.train("sft", "empty", "selection=published"))
    assert "empty/iql/best.ckpt is missing" in said and "stage=iql" in said
    place.copy("run", "half", ["iql"])
    said = refused(lambda: place.train("jpo", "half"))
    assert "half/sft/adapter is missing" in said and "stage=sft" in said
    said = refused(lambda: place.evaluate("empty", "arms=[phrasebook_iql]"))
    assert "empty/iql not trained yet; give train=missing" in said and "train.py stage=iql" in said


def test_an_adapter_for_another_base_model(place, refused):
    other = build_tiny_model(place.folder / "other_model", seed=1)
    place.copy("run", "foreign", ["iql", "sft"])
    said = refused(lambda: place.train("jpo", "foreign", f"model.base_model={other}"))
    assert "foreign/sft/adapter was trained for base model" in said and "other_model" in said
    assert "checkpoint" in refused(lambda: resumed_with(place, "foreign-selector", "iql", "sft"))


def resumed_with(place, run, foreign, stage):
    """A stage whose `last.ckpt` is another stage's."""
    place.copy("run", run, [foreign, stage])
    (place.folder / run / stage / "finished.json").unlink()
    (place.folder / run / stage / "last.ckpt").write_bytes((place.folder / run / foreign / "last.ckpt").read_bytes())
    config = place.folder / run / stage / "config.yaml"
    config.write_text(config.read_text().replace(f"{place.folder}/run/", f"{place.folder}/{run}/"), encoding="utf-8")
    text = config.read_text().replace(f"run_dir: {place.folder}/run\n", f"run_dir: {place.folder}/{run}\n")
    config.write_text(text, encoding="utf-8")
    place.train(stage, run)


def test_a_corrupted_checkpoint(place, refused):
    place.train("iql", "corrupt")
    folder = place.folder / "corrupt" / "iql"
    (folder / "finished.json").unlink()
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:500])
    before = files(folder)
    said = refused(lambda: place.train("iql", "corrupt"))
    assert "last.ckpt is damaged" in said and "delete" in said
    assert files(folder) == before


def test_two_runs_in_one_folder(place, refused):
    with exclusive(place.folder / "run" / "iql"):
        said = refused(lambda: place.train("iql"))
    assert "run/iql is in use by process" in said and "another run=" in said


def test_a_refused_command_leaves_the_folder_of_one_that_has_just_begun(place, refused):
    with exclusive(place.folder / "begun" / "iql"):  # no more than its lock is there yet
        assert "begun/iql is in use by process" in refused(lambda: place.train("iql", "begun"))
        assert (place.folder / "begun" / "iql" / ".lock").is_file()
        assert "begun/iql is in use by process" in refused(lambda: place.train("iql", "begun"))


def test_a_changed_configuration(place, refused):
    before = files(place.folder / "run")
    said = refused(lambda: place.train("iql", "run", "seed=5", "learner.discount=0.5"))
    assert "learner.discount was 0.99, is 0.5" in said and "seed was 0, is 5" in said
    assert "resume=never" in refused(lambda: place.train("iql", "run", "resume=never"))
    assert files(place.folder / "run") == before


@pytest.fixture
def corpus(place):
    return next(place.corpora.glob("bundled-*/episodes.parquet"))


def empty(_episodes):
    return []


def in_two_splits(episodes):
    train = next(episode for episode in episodes if episode.split == "train")
    return [*episodes, replace(train, split="val", episode_id="again")]


def without_validation(episodes):
    return [episode for episode in episodes if episode.split == "train"]


def other_words(episodes):
    first = episodes[0]
    return [replace(first, turns=(replace(first.turns[0], emotion="hope"), *first.turns[1:])), *episodes[1:]]


def endless_offer(episodes):
    first = episodes[0]
    return [replace(first, turns=(replace(first.turns[0], offer=float("nan")), *first.turns[1:])), *episodes[1:]]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (empty, "is empty"),
        (in_two_splits, "split"),
        (without_validation, "'val'"),
        (other_words, "hope"),
        (endless_offer, "row 0"),
    ],
)
def test_a_corpus_that_cannot_be_learned_from(place, refused, corpus, tmp_path, spoil, named):
    path = tmp_path / "mine.parquet"
    write_episodes(spoil(read_episodes(corpus)), path)
    said = refused(lambda: train_on_other_data(place, "spoiled", ["data=file", f"data.corpus.path={path}"]))
    assert named in said


def test_a_corpus_of_yours_is_learned_from(place, corpus, tmp_path):
    path = tmp_path / "mine.parquet"
    write_episodes(read_episodes(corpus), path)
    train_on_other_data(place, "mine", ["data=file", f"data.corpus.path={path}"])
    assert (place.folder / "mine" / "iql" / "finished.json").is_file()


def test_a_file_that_is_no_corpus(place, refused, tmp_path):
    path = tmp_path / "mine.parquet"
    path.write_text("episodes", encoding="utf-8")
    said = refused(lambda: train_on_other_data(place, "no-corpus", ["data=file", f"data.corpus.path={path}"]))
    assert "mine.parquet is not a readable Parquet file" in said
    assert SCHEMA.names[0] not in said


def test_finished_json_is_for_people_and_programs(place):
    found = json.loads((place.folder / "run" / "iql" / "finished.json").read_text(encoding="utf-8"))
    assert found["steps"] == 8 and "val/fqe_value" in found
    assert torch.load(place.folder / "run" / "iql" / "best.ckpt", weights_only=True)["stage"] == "iql"


def test_a_reward_without_a_judge_makes_no_ledger(place, refused, tmp_path):
    ledger = f"judge.ledger.path={tmp_path / 'ledger.sqlite'}"
    refused(lambda: place.train("iql", "refused", ledger, "learner.expectile=2"))
    place.train("iql", "unjudged", ledger)
    assert not list(tmp_path.iterdir())
    place.train("iql", "judged", ledger, "data.dataset.reward.judge=1")
    assert (tmp_path / "ledger.sqlite").is_file()


def test_a_folder_that_may_not_be_written_is_named(refused):
    def write():
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/checkpoints")

    assert refused(write) == (
        "error: /somewhere/checkpoints: Permission denied; choose another folder with run_dir=..., or by "
        "EMODISTILL_CACHE"
    )
