"""Training the variants on a tiny model: what each shares with the run, where it goes, what it is told."""

import json
import sqlite3
from contextlib import closing

import pytest
import yaml
from tiny_runs import begun

from emodistill.errors import UserError

VARIANTS = {"joint": "self_selected", "emotion_free": "none"}
RIVALS = ("best_of_n", "preference_pairs", "online_simulation")  # of JPO, from the same SFT adapter


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = begun(tmp_path_factory, "variants", "iql", "sft")
    for variant in VARIANTS:
        for stage in ("sft", "jpo"):
            place.train(stage, "run", f"variant={variant}")
    place.train("jpo", "run", "variant=positive_advantage")
    for variant in RIVALS:
        place.train("jpo", "run", f"variant={variant}", "size.jpo_steps=2")
    return place


def note(place, stage):
    return json.loads((place.folder / "run" / stage / "adapter" / "emodistill.json").read_text())


def test_each_variant_has_folders_of_its_own(place):
    assert {path.name for path in (place.folder / "run").iterdir()} == {
        *("iql", "sft", "jpo_positive_advantage"),
        *(f"jpo_{variant}" for variant in RIVALS),
        *(f"{stage}_{variant}" for stage in ("sft", "jpo") for variant in VARIANTS),
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_says_how_it_was_told_of_emotions(place, variant):
    assert {note(place, f"{stage}_{variant}")["emotions"] for stage in ("sft", "jpo")} == {VARIANTS[variant]}
    assert "emotions" not in note(place, "sft") and "emotions" not in note(place, "jpo_positive_advantage")


@pytest.mark.parametrize(
    "stage", ["jpo_joint", "jpo_emotion_free", "jpo_positive_advantage", *(f"jpo_{variant}" for variant in RIVALS)]
)
def test_jpo_starts_from_the_sft_of_its_variant(place, stage):
    config = yaml.safe_load((place.folder / "run" / stage / "config.yaml").read_text())
    start = stage.replace("jpo", "sft") if stage.removeprefix("jpo_") in VARIANTS else "sft"
    assert config["learner"]["policy"]["init_adapter"] == str(place.folder / "run" / start / "adapter")


def test_the_simulation_scores_every_reply_and_is_named_as_not_offline(place):
    with closing(sqlite3.connect(place.folder / "ledger.sqlite")) as ledger:
        asked = "SELECT score FROM judgements WHERE judge = 'simulation (not offline)'"
        scores = [score for (score,) in ledger.execute(asked)]
    assert None not in scores and len(set(scores)) > 5
    config = yaml.safe_load((place.folder / "run" / "jpo_online_simulation" / "config.yaml").read_text())
    assert config["learner"]["parts"] is None  # nothing else is rewarded


def test_the_arms_of_all_variants_are_played_and_reported(place):
    names = [
        "vanilla",
        "mean_return",
        "emotion_free",
        "joint",
        "positive_advantage",
        "self_selected+base",
        '"random+sft#2"',
    ]
    report = place.evaluate("run", f"arms=[{','.join(names)}]")
    arms = {cell["arm"]: cell for cell in report["cells"]}
    assert list(arms) == [name.strip('"') for name in names]
    assert (
        arms["emotion_free"]["faithfulness"] is None and arms["emotion_free"]["role_violations"].get("unnamed") is None
    )
    assert arms["joint"]["role_violations"]["unnamed"] > 0  # a model of random weights hardly ever names one
    spoken = {row["source"]: row for row in report["expression"]}
    assert all(row["contexts"] == 2 for row in spoken.values())
    assert set(spoken) == {"base", "jpo_emotion_free", "jpo_joint", "jpo_positive_advantage", "sft"}
    assert spoken["jpo_emotion_free"]["faithfulness"] is None and "named" in spoken["jpo_joint"]
    folder = place.folder / "run" / "evaluation" / "episodes"
    costs = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert set(costs) == set(arms) and all(cost["generated_tokens"] > 0 for cost in costs.values())


def test_words_that_name_emotions_are_not_played_with_a_selector(place):
    with pytest.raises(UserError, match="play self_selected.jpo_joint"):
        place.evaluate("run", "arms=[iql+jpo_joint]", "name=mixed")
