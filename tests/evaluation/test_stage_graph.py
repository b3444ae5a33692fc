"""The stages that arms need, in the order of what they learn from."""

import pytest

from commands.building import read_variants
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import parse_arms
from emodistill.evaluation.stage_graph import StageGraph, is_trained

VOCABULARY = load_vocabulary()
GRAPH = StageGraph(read_variants())
PARTS = ("adapter_model.safetensors", "adapter_config.json", "emodistill.json")


def missing(names, run_dir):
    return [stage.name for stage in GRAPH.missing(parse_arms(names, VOCABULARY), run_dir)]


def put(run_dir, name):
    folder = run_dir / name / ("" if name == "iql" else "adapter")
    folder.mkdir(parents=True)
    for part in ["best.ckpt"] if name == "iql" else PARTS:
        (folder / part).write_text("")


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
    assert is_trained("iql", tmp_path)
    (tmp_path / "iql" / "last.ckpt").write_text("")
    assert not is_trained("iql", tmp_path)  # it is still learning
    (tmp_path / "iql" / "finished.json").write_text("{}")
    assert is_trained("iql", tmp_path)
    put(tmp_path, "sft")
    (tmp_path / "sft" / "adapter" / PARTS[0]).unlink()
    assert missing(["sft"], tmp_path) == ["sft"]


def test_an_adapter_of_yours_is_found_by_its_folder(tmp_path):
    with pytest.raises(UserError, match="arm 'iql.mine': .*mine/adapter holds no adapter.*jpo_joint"):
        missing(["iql+mine"], tmp_path)
    put(tmp_path, "mine")
    assert missing(["none+mine"], tmp_path) == []


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
    assert GRAPH.needed(parse_arms(arms, VOCABULARY)) == expected


def test_a_new_variant_is_one_entry_of_the_graph(tmp_path):
    graph = StageGraph({"bold": {"jpo": {"learner": {"negative_weight": 0.0}}}, "late": {"sft": {}, "jpo": {}}})
    assert [stage.name for stage in graph.missing(parse_arms(["iql+jpo_bold"], VOCABULARY), tmp_path)] == [
        "iql",
        "sft",
        "jpo_bold",
    ]
    assert graph.needed(parse_arms(["none+jpo_late"], VOCABULARY)) == ["iql", "sft_late", "jpo_late"]
    assert graph.stages["jpo_late"].overrides == ["stage=jpo", "variant=late"]
