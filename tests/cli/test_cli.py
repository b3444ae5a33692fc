"""Mistakes in a command end in one sentence that names the thing and the way out; a bug keeps its traceback."""

import errno
import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from tiny_runs import files, train_on_other_data

from commands import entry
from emodistill.errors import UserError
from emodistill.files import exclusive

ROOT = Path(__file__).resolve().parents[2]


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


def test_help_lists_the_groups_that_a_command_takes_and_no_others():
    shown = {name: entry.help_text(name, "").split("Any key can be set")[0] for name in ("train", "evaluate", "play")}
    taken = {name: {line.strip().partition("=")[0] for line in text.splitlines()} for name, text in shown.items()}
    assert {"stage", "variant", "sampler", "judge"} <= taken["train"] and not {"guard", "study"} & taken["train"]
    assert {"guard", "study", "judge"} <= taken["evaluate"] and not {"stage", "variant", "logger"} & taken["evaluate"]
    assert "experiment" in taken["play"] and not {"stage", "study", "guard"} & taken["play"]


def test_a_word_that_is_refused_is_not_offered_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    said = entry.explain(HydraException("Could not override 'learner.retries'."))
    assert said is not None and "did you mean retries" not in said


@pytest.mark.parametrize("target", ["nowhere.Judge", "emodistill.nowhere.Judge", "emodistill.errors.Nowhere"])
def test_a_class_that_is_in_no_module_is_named_with_its_key(target):
    with pytest.raises(InstantiationException) as raised:
        instantiate({"judge": {"judge": {"_target_": target}}})
    said = entry.explain(raised.value)
    assert said is not None and said.startswith(f"judge.judge._target_={target}: there is no such class; ")


def test_a_module_of_the_user_s_that_fails_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text("import nothing_like_it\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": "failing.Judge"})
    assert entry.explain(raised.value) is None


def test_help_is_quick_and_shows_the_stages():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for script, words in (("train.py", ["stage=iql|jpo|sft", "resume:"]), ("evaluate.py", ["arms:", "size=demo|full"])):
        shown = command(script, "--help")
        assert shown.returncode == 0 and not shown.stderr
        assert all(word in shown.stdout for word in words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 2 * 2.0


SLOW = {"torch", "lightning", "transformers", "sklearn", "scipy", "matplotlib", "pandas"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train.py", "stage=iql", "sede=1"], "did you mean seed?"),
        (["train.py", "stage=iql", "learner.expectil=0.5"], "did you mean expectile?"),
        (["train.py", "stage=dpo"], "did you mean jpo?"),
        (["train.py", "stage=jpo", "variant=join"], "did you mean joint?"),
        (["train.py", "stage=iql", "variant=emotion_free"], "variant=emotion_free changes nothing in stage=iql"),
        (["train.py", "stage=iql", "monitor.save_every=0"], "give a number of steps, from 1"),
        (["train.py", "stage=iql", "monitor.mode=maximum"], "use min or max"),
        (["evaluate.py", "study=transfer", "conditions=[]"], "name at least one of the study's conditions"),
        (
            ["train.py", "stage=jpo", "run=nope"],
            "nope/iql/best.ckpt is missing; train it with: python train.py stage=iql",
        ),
        (
            ["train.py", "stage=iql", "guard=strict"],
            "train.py takes no guard=; it is a group of chat.py, evaluate.py, ",
        ),
        (["serve.py", "judge.name=lm"], "serve.py takes no judge=; it is a group of evaluate.py, play.py, "),
        (["train.py", "stage=iql", "averaging=last"], "averaging= goes with stage=jpo, stage=sft"),
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
    ("word", "named"),
    [
        ("counterparty.seat.retries=1", "the key counterparty.seat is now counterparty.agent"),
        ("data.view.batch_size=3", "the key data.view is now data.dataset"),
        ("run=", "is empty; give the run a name"),
        ("run=../up", "leads out of checkpoints/"),
        ("run=$HOME", "names a variable of the environment"),
        (f"run={'x' * 300}", "too long for a folder"),
    ],
)
def test_a_word_that_is_refused_before_hydra_reads_it(monkeypatch, capsys, word, named):
    monkeypatch.setattr(sys, "argv", ["train.py", "stage=iql", word])
    with pytest.raises(SystemExit) as end:
        entry.run(lambda: pytest.fail("it ran"), "train", "")
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ") and named in line


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
    assert not (place.folder / run).exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["arms=[vanilla,fixed:hope]"], "hope"),
        (["arms=[vanila]"], "unknown arm 'vanila'"),
        (["arms=[vanilla,vanilla]"], "twice"),
        (["arms=[phrasebook_random]", "personas=[bully]"], "bully"),
        (["arms=[phrasebook_random]", "personas=null"], "personas=null: give a list of personas, or a set of them"),
        (["arms=[phrasebook_random]", "personas=3"], "personas=3: give a list"),
        (["arms=[phrasebook_random]", "episodes_per_scenario=0"], "episodes_per_scenario=0: a whole number of"),
        (["arms=[phrasebook_random]", "episodes_per_scenario=1.5"], "episodes_per_scenario=1.5: a whole number"),
        (["arms=[phrasebook_random]", "scenarios_per_domain=abc"], "scenarios_per_domain=abc: a whole number"),
        (["arms=[phrasebook_random]", "scenarios_per_domain=1.5"], "a whole number of at least 1, or null for all"),
        (["arms=[phrasebook_random]", "constant_repeats=x"], "constant_repeats=x: a whole number of at least 1"),
        (["arms=[phrasebook_random]", "temperature=hot"], "temperature=hot: a number of at least 0"),
        (["arms=[phrasebook_random]", "schedule.exponent=abc"], "schedule.exponent=abc: a number"),
        (["arms=[phrasebook_random]", "executor.workers=abc"], "executor.workers=abc: a whole number"),
        (["arms=[phrasebook_iql]", "vocabulary=ekman7"], "trained with the vocabulary 'goemotions28'"),
        (["arms=[emodistill]"], "train=missing"),
    ],
)
def test_an_evaluation_that_cannot_be_played(place, refused, overrides, named):
    before = files(place.folder / "run" / "iql") | files(place.folder / "run" / "sft")
    name = f"name=evaluation-{abs(hash(tuple(overrides)))}"
    assert named in refused(lambda: place.evaluate("run", name, *overrides))
    assert files(place.folder / "run" / "iql") | files(place.folder / "run" / "sft") == before
    assert not list((place.folder / "run").glob("evaluation-*/config.yaml"))


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("train.py stage=jpo run=nope", "is missing; train it with"),
        ("train.py stage=iql nokey=1", "Could not override 'nokey'"),
        ("train.py stage=iql vocabulary=nope", "no vocabulary 'nope'"),
        ("train.py stage=iql data=file", "Missing mandatory value: data.corpus.path"),
        ("train.py stage=iql data=file data.corpus.path=nope", "data.corpus.path=nope does not exist"),
        ("evaluate.py run=nope", "not trained yet"),
        ("evaluate.py run=nope study=separability", "not trained yet"),
        ("evaluate.py run=nope arms=[wrong]", "unknown arm 'wrong'"),
        ("evaluate.py run=nope train=perhaps", "train=perhaps"),
        ("evaluate.py run=nope vocabulary=nope", "no vocabulary 'nope'"),
        ("play.py data=file data.corpus.path=nope", "data.corpus.path=nope does not exist"),
    ],
)
def test_a_mistake_is_named_before_anything_slow_is_imported(tmp_path, command, named):
    """Their imports take seconds, in which nothing is learnt."""
    script, *words = command.split()
    code = f"import sys, runpy; sys.argv = {[script, *words]!r}\n"
    code += f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
    code += f"except SystemExit as end: print(end.code, *sorted({SLOW} & set(sys.modules)))"
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"} | path
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert named in shown.stderr
    assert shown.stdout.split() == ["2"], shown.stderr


def test_a_full_disk_is_one_sentence_and_room_is_all_it_takes(place):
    """A limit on the size of a file stands for the disk: the checkpoint does not fit."""
    arguments = ["train.py", "stage=iql", "trainer.accelerator=cpu", "callbacks.progress_bar=null"]
    arguments += ["data.dataset.batch_size=16", f"judge.ledger.path={place.folder / 'ledger.sqlite'}"]
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


def test_a_disk_without_file_locks_is_one_sentence(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks") as raised, exclusive(tmp_path):
        pytest.fail("held without a lock")
    assert "run_dir=" in entry.explain(raised.value) and "no file locks" in entry.explain(raised.value)


@pytest.mark.parametrize("own", [None, "0", "1"])
def test_a_command_in_this_process_leaves_the_environment_as_it_was(monkeypatch, own):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if own is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", own)
    with entry.explained():
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert os.environ.get("HYDRA_FULL_ERROR") == own


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


def test_training_without_a_number_of_steps_or_epochs_is_refused(place):
    ended = command("train.py", "stage=iql", *place.overrides("endless"), "trainer.max_steps=-1")
    assert ended.returncode == 2 and "trainer.max_steps=-1: give a number of steps" in ended.stderr
    assert not (place.folder / "endless").exists()
