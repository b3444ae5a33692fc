"""Mistakes of a user end in one sentence that names the thing and the way out; nothing already made is lost."""

import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_model import build_tiny_model
from tiny_runs import QUIET, Workplace, composed

import entry
from emodistill.data.schema import SCHEMA, read_episodes, write_episodes
from emodistill.errors import UserError
from emodistill.locks import exclusive
from train import train

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished selector and a finished SFT adapter, to make mistakes with."""
    place = Workplace(tmp_path_factory.mktemp("cli"))
    place.train("iql")
    place.train("sft", "run", "size.sft_steps=2")
    return place


@pytest.fixture
def refused(capsys, monkeypatch):
    """Runs something as the scripts do; returns the one sentence that it ends with."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(work):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end, entry.explained():
            work()
        assert end.value.code == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1
        return said[0]

    return run


def files(folder):
    """Every file with its content's age; the lock is not content."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def command(script, *arguments, limit=None, cwd=ROOT):
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )


def test_help_is_quick_and_shows_the_stages():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for script, words in (("train.py", ["stage=iql|jpo|sft", "resume:"]), ("evaluate.py", ["arms:", "size=demo|full"])):
        shown = command(script, "--help")
        assert shown.returncode == 0 and not shown.stderr
        assert all(word in shown.stdout for word in words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 2 * 2.0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train.py", "stage=iql", "sede=1"], "'sede'"),
        (["train.py", "stage=dpo"], "stage/dpo"),
        (["train.py"], "stage"),
        (["evaluate.py", "arms=[vanilla"], "[vanilla"),
    ],
)
def test_a_command_that_cannot_be_composed(arguments, named, tmp_path):
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and named in line and "Traceback" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["learner.expectil=0.5"], "expectil"),
        (["+learner.expectil=0.5"], "expectil"),
        (["learner.expectile=2"], "learner.expectile=2"),
        (["domains=[debts]"], "debts"),
        (["vocabulary=plutchik"], "plutchik"),
        (["counterparty.training_personas=[vanilla,bully]"], "bully"),
        (["observation=fuller"], "fuller"),
        (["resume=maybe"], "resume=maybe"),
        (["scenarios.per_domain=3"], "scenarios.per_domain=3"),
        (["scenarios=csv", "~scenarios.per_domain"], "debt"),
        (["data=file", "data.corpus.path=nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_a_stage_that_cannot_be_built_claims_no_folder(place, refused, overrides, named):
    run = "mistake"

    def work():
        if overrides[0].startswith(("data=", "scenarios=")):
            train_on_other_data(place, run, overrides)
        else:
            place.train("iql", run, *overrides)

    assert named in refused(work)
    assert not (place.folder / run / "iql" / "config.yaml").exists()


def train_on_other_data(place, run, overrides):
    """The workplace's own settings of the bundled corpus do not go with another source."""
    ours = [f"run_dir={place.folder / run}", f"judge.ledger.path={place.folder / 'ledger.sqlite'}", "domains=[debt]"]
    kept = [change for change in overrides if not change.startswith("~")]
    train(composed("train", "stage=iql", *QUIET, "size.iql_steps=2", "size.iql_val_every=2", *ours, *kept))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["arms=[vanilla,fixed:hope]"], "hope"),
        (["arms=[vanila]"], "unknown arm 'vanila'"),
        (["arms=[vanilla,vanilla]"], "twice"),
        (["personas=[bully]"], "bully"),
        (["seeds=0"], "nothing to play"),
        (["arms=[phrasebook_iql]", "vocabulary=ekman7"], "trained with the vocabulary 'goemotions28'"),
        (["arms=[emodistill]"], "jpo/adapter"),
    ],
)
def test_an_evaluation_that_cannot_be_played(place, refused, overrides, named):
    before = files(place.folder / "run" / "iql") | files(place.folder / "run" / "sft")
    name = f"name=evaluation-{abs(hash(tuple(overrides)))}"
    assert named in refused(lambda: place.evaluate("run", name, *overrides))
    assert files(place.folder / "run" / "iql") | files(place.folder / "run" / "sft") == before


def test_an_earlier_stage_that_is_missing(place, refused):
    said = refused(lambda: place.train("sft", "empty"))
    assert "empty/iql/best.ckpt is missing" in said and "stage=iql" in said
    place.copy("run", "half", ["iql"])
    said = refused(lambda: place.train("jpo", "half"))
    assert "half/sft/adapter holds no adapter" in said and "train the stage" in said
    said = refused(lambda: place.evaluate("empty", "arms=[phrasebook_iql]"))
    assert "empty/iql/best.ckpt is missing" in said


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
    place.train(stage, run, "size.sft_steps=2")


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


def test_a_changed_configuration(place, refused):
    before = files(place.folder / "run")
    said = refused(lambda: place.train("iql", "run", "seed=5", "learner.discount=0.5"))
    assert "learner.discount was 0.99, is 0.5" in said and "seed was 0, is 5" in said
    assert "resume=never" in refused(lambda: place.train("iql", "run", "resume=never"))
    assert files(place.folder / "run") == before


@pytest.fixture
def corpus(place):
    return next((place.folder / "corpora").glob("*/episodes.parquet"))


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


def test_a_full_disk_is_one_sentence_and_room_is_all_it_takes(place):
    """A limit on the size of a file stands for the disk: the checkpoint does not fit."""
    arguments = ["train.py", "stage=iql", "trainer.accelerator=cpu", "callbacks.progress_bar=null"]
    arguments += ["data.view.batch_size=16", f"judge.ledger.path={place.folder / 'ledger.sqlite'}"]
    arguments += place.overrides("full")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    full = command(*arguments, limit=limit)
    assert full.returncode == 2
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert "disk is full" in line and "run the same command again" in line and "Traceback" not in full.stderr
    folder = place.folder / "full" / "iql"
    assert not (folder / "finished.json").exists() and not (folder / "last.ckpt").exists()


def test_words_of_the_error_of_a_full_disk():
    error = OSError(errno.ENOSPC, "No space left on device", "best.ckpt")
    assert entry.explain(error) == "the disk is full (best.ckpt); make room and run the same command again"
    wrapped = RuntimeError("a library's own words")
    wrapped.__cause__ = error
    assert "disk is full" in entry.explain(wrapped)


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert entry.explain(ValueError("ours")) is None
    with pytest.raises(ZeroDivisionError), entry.explained():
        _ = 1 / 0
    with pytest.raises(FileNotFoundError), entry.explained():
        Path("nowhere").read_text(encoding="utf-8")


def test_an_interrupt_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as end, entry.explained():
        raise KeyboardInterrupt
    assert end.value.code == 130 and "run the same command again" in capsys.readouterr().err


def test_a_user_error_inside_another_is_found():
    outer = RuntimeError("while building")
    outer.__cause__ = UserError("row 3 of a.csv")
    assert entry.explain(outer) == "row 3 of a.csv"


def test_finished_json_is_for_people_and_programs(place):
    found = json.loads((place.folder / "run" / "iql" / "finished.json").read_text(encoding="utf-8"))
    assert found["steps"] == 8 and "val/fqe_value" in found
    assert torch.load(place.folder / "run" / "iql" / "best.ckpt", weights_only=True)["stage"] == "iql"
