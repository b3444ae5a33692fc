"""What arms need to be trained, and training it in processes of its own."""

import sys
from pathlib import Path

import pytest

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import parse_arms
from emodistill.evaluation.stage_graph import STAGES, commands, is_there, missing_stages, needed_stages, train_missing

VOCABULARY = load_vocabulary()
PARTS = ("adapter_model.safetensors", "adapter_config.json", "emodistill.json")
TRAINER = """
import pathlib, sys
given = dict(word.split("=") for word in sys.argv[1:])
name = given["stage"] + ("_" + given["variant"] if "variant" in given else "")
if given.get("fail") == name:
    sys.exit(2)
folder = pathlib.Path(given["run_dir"]) / name
folder.mkdir(parents=True)
(folder / "finished.json").write_text("{}")
(folder / "best.ckpt").write_text("")
if given["stage"] != "iql" and given.get("lose") != name:
    (folder / "adapter").mkdir()
    for part in ("adapter_model.safetensors", "adapter_config.json", "emodistill.json"):
        (folder / "adapter" / part).write_text("")
with open(pathlib.Path(given["run_dir"]) / "order", "a") as order:
    order.write(name + " ")
"""


def missing(names, run_dir):
    return [stage.name for stage in missing_stages(parse_arms(names, VOCABULARY), run_dir)]


def put(run_dir, name):
    folder = run_dir / name / ("" if name == "iql" else "adapter")
    folder.mkdir(parents=True)
    for part in ["best.ckpt"] if name == "iql" else PARTS:
        (folder / part).write_text("")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(TRAINER)
    return path


@pytest.mark.parametrize(
    ("arms", "stages"),
    [
        (["vanilla", "random", "mean_return", "phrasebook_random", "endpoint_vanilla", "self_selected+base"], []),
        (["iql"], ["iql"]),
        (["sft"], ["iql", "sft"]),
        (["emodistill"], ["iql", "sft", "jpo"]),
        (["random+jpo"], ["iql", "sft", "jpo"]),
        (["joint"], ["iql", "sft_joint", "jpo_joint"]),
        (["emotion_free", "iql"], ["iql", "sft_emotion_free", "jpo_emotion_free"]),
        (["positive_advantage"], ["iql", "sft", "jpo_positive_advantage"]),
        (["emodistill", "positive_advantage", "sft"], ["iql", "sft", "jpo", "jpo_positive_advantage"]),
        (["self_selected+sft_joint#2"], ["iql", "sft_joint"]),
    ],
)
def test_stages_in_the_order_of_what_they_learn_from(tmp_path, arms, stages):
    assert missing(arms, tmp_path) == stages


def test_what_is_there_is_not_trained_again(tmp_path):
    put(tmp_path, "sft")
    assert missing(["emodistill"], tmp_path) == ["iql", "jpo"]
    assert missing(["none+sft"], tmp_path) == []
    put(tmp_path, "jpo_joint")
    assert missing(["joint"], tmp_path) == []


def test_half_a_stage_is_missing(tmp_path):
    put(tmp_path, "iql")
    assert is_there("iql", tmp_path)
    (tmp_path / "iql" / "last.ckpt").write_text("")
    assert not is_there("iql", tmp_path)  # it is still learning
    (tmp_path / "iql" / "finished.json").write_text("{}")
    assert is_there("iql", tmp_path)
    put(tmp_path, "sft")
    (tmp_path / "sft" / "adapter" / PARTS[0]).unlink()
    assert missing(["sft"], tmp_path) == ["sft"]


def test_an_adapter_of_yours_is_found_by_its_folder(tmp_path):
    with pytest.raises(UserError, match="arm 'iql.mine': .*mine/adapter holds no adapter.*jpo_joint"):
        missing(["iql+mine"], tmp_path)
    put(tmp_path, "mine")
    assert missing(["none+mine"], tmp_path) == []


def test_the_commands_are_what_a_user_would_type(tmp_path):
    stages = missing_stages(parse_arms(["joint"], VOCABULARY), tmp_path)
    assert [stage.name for stage in stages] == ["iql", "sft_joint", "jpo_joint"]
    assert commands(stages, ["run=my run"])[1] == "python train.py stage=sft variant=joint 'run=my run'"


def test_training_runs_every_stage_once_and_says_what_it_took(tmp_path, script, capfd):
    run = tmp_path / "run"
    run.mkdir()
    stages = missing_stages(parse_arms(["positive_advantage"], VOCABULARY), run)
    costs = train_missing(stages, [f"run_dir={run}"], run, script)
    assert (run / "order").read_text().split() == list(costs) == ["iql", "sft", "jpo_positive_advantage"]
    assert all(0 < cost.seconds < 60 and cost.money == 0 for cost in costs.values())
    assert missing(["positive_advantage"], run) == []
    assert "sft is missing: python train.py stage=sft" in capfd.readouterr().out


@pytest.mark.parametrize(("how", "why"), [("fail", "ended with exit status 2"), ("lose", "left nothing in")])
def test_a_failure_stops_with_its_command_and_keeps_what_was_trained(tmp_path, script, how, why):
    run = tmp_path / "run"
    run.mkdir()
    stages = missing_stages(parse_arms(["emodistill"], VOCABULARY), run)
    with pytest.raises(UserError, match=f"training sft {why}.*python train.py stage=sft run_dir="):
        train_missing(stages, [f"run_dir={run}", f"{how}=sft"], run, script)
    assert is_there("iql", run) and missing(["emodistill"], run) == ["sft", "jpo"]


def test_a_stage_that_hangs_is_stopped(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(UserError, match="took more than 0.2 s"):
        train_missing([STAGES["iql"]], [], tmp_path, script, stop_after_s=0.2)


def test_the_script_is_run_by_this_python(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(f"import pathlib, sys; pathlib.Path({str(tmp_path / 'who')!r}).write_text(sys.executable)")
    with pytest.raises(UserError, match="left nothing"):
        train_missing([STAGES["iql"]], [], tmp_path, script)
    assert Path((tmp_path / "who").read_text()) == Path(sys.executable)


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (["vanilla", "phrasebook_random"], []),
        (["random+jpo"], ["iql", "sft", "jpo"]),  # though no selector plays, one picked the turns that were learnt
        (["joint", "iql"], ["iql", "sft_joint", "jpo_joint"]),
        (["joy+mine"], ["mine"]),
    ],
)
def test_everything_that_training_went_through(arms, expected):
    assert needed_stages(parse_arms(arms, VOCABULARY)) == expected
