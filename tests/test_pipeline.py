"""All stages and the evaluation of one run, on a tiny model: what each leaves behind for the next and for people."""

import json

import pytest
import torch
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import Workplace
from transformers import AutoModelForCausalLM

from emodistill.data.schema import read_episodes

EPISODE_STAGES = ("iql", "sft", "jpo")
CELL = {"arm", "domain", "episodes", "invalid", "success", "outcome", "utility", "utility_ci", "rounds", "faithfulness"}
ARMS = ["vanilla", "iql", "sft", "emodistill"]
IQL_CURVES = {
    *(f"train/{head}_loss" for head in ("q", "v", "policy")),
    *(f"train/{name}_{of}" for name in ("q", "v", "advantage") for of in ("mean", "std", "min", "max")),
    *(f"train/learning_rate_{head}" for head in ("q", "v", "policy")),
    "train/weight_clip_share",
    "val/fqe_value",
    "val/pdwis_effective_size",
    "throughput/steps_per_second",
    "throughput/turns_per_second",
    "throughput/peak_memory_gib",
}
SPOKEN = {"val/faithfulness", "val/stated_offers", "val/judge_score", "val/words"}
CHAT_RATES = {"throughput/turns_per_second", "throughput/response_tokens_per_second", "throughput/steps_per_second"}
SFT_CURVES = {"train/loss", "train/perplexity", "train/learning_rate", "val/loss", "val/perplexity"}
JPO_CURVES = {
    *(f"train/ratio_{of}" for of in ("mean", "min", "max")),
    *(f"train/advantage_{of}" for of in ("mean", "std", "min", "max")),
    *(f"train/{name}" for name in ("loss", "reward", "reward_missing", "reward_emotion", "kl", "response_length")),
    "train/learning_rate",
    "train/skipped_groups",
    "train/judge_wait_s",
    "val/reward",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("pipeline"))
    for stage in EPISODE_STAGES:
        place.train(stage, "run", *(["trainer.log_every_n_steps=2"] if stage == "iql" else []))
    return place


@pytest.fixture(scope="module")
def report(place):
    return place.evaluate()


def curves(place, stage):
    return EventAccumulator(str(place.folder / "run" / stage / "tensorboard"), {"tensors": 0, "histograms": 0}).Reload()


def again(place, stage):
    return place.train(stage, "run", *(["trainer.log_every_n_steps=2"] if stage == "iql" else []))


@pytest.mark.parametrize("stage", EPISODE_STAGES)
def test_a_finished_stage_says_so_and_does_nothing(place, stage, capsys):
    folder = place.folder / "run" / stage
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert again(place, stage) is None
    assert f"{folder} is finished ({json.loads((folder / 'finished.json').read_text())['steps']} steps)" in (
        capsys.readouterr().out
    )
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_each_stage_leaves_what_the_next_one_needs(place):
    run = place.folder / "run"
    for stage in EPISODE_STAGES:
        names = {path.name for path in (run / stage).iterdir()}
        assert {"best.ckpt", "last.ckpt", "config.yaml", "finished.json", "tensorboard"} <= names
        assert not [path for path in (run / stage).rglob("*") if "partial" in path.name]
        torch.load(run / stage / "best.ckpt", weights_only=True)


@pytest.mark.parametrize("stage", ["sft", "jpo"])
def test_an_adapter_is_what_best_ckpt_holds_and_plain_peft_reads_it(place, stage):
    folder = place.folder / "run" / stage / "adapter"
    base = AutoModelForCausalLM.from_pretrained(place.model)
    model = PeftModel.from_pretrained(base, folder)
    best = place.weights("run", stage, "best.ckpt")
    own = {name.replace(".default.", "."): tensor for name, tensor in model.named_parameters() if "lora_" in name}
    prefix = "policy.model."
    theirs = {name.removeprefix(prefix).replace(".policy.", "."): tensor for name, tensor in best.items()}
    assert own.keys() == theirs.keys() and any(tensor.abs().sum() > 0 for tensor in own.values())
    assert all(torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        ("iql", IQL_CURVES),
        ("sft", SFT_CURVES | SPOKEN | CHAT_RATES),
        ("jpo", JPO_CURVES | SPOKEN | CHAT_RATES),
    ],
)
def test_the_curves_one_looks_for_are_there(place, stage, wanted):
    shown = curves(place, stage)
    assert wanted <= set(shown.Tags()["scalars"])
    if stage == "iql":
        assert {"val/pdwis_value", "val/pdwis_value_unreliable"} & set(shown.Tags()["scalars"])
        assert {f"emotions/{name}" for name in ("corpus", "policy", "greedy")} <= set(shown.Tags()["histograms"])
        assert "emotions/table/text_summary" in shown.Tags()["tensors"]
    else:
        assert "samples/text_summary" in shown.Tags()["tensors"]
        table = shown.Tensors("samples/text_summary")[-1].tensor_proto.string_val[0].decode()
        assert table.startswith("| they said |") and len(table.splitlines()) == 2 + 2  # validation contexts


def test_validations_come_when_they_should_and_the_monitored_figure_fills_the_hparams_tab(place):
    for stage, metric, steps in (("iql", "val/fqe_value", [4, 8]), ("sft", "val/loss", [2, 4, 6])):
        shown = curves(place, stage)
        found = {event.step for event in shown.Scalars(metric)}
        assert {round(step) for step in found} & {step - 1 for step in steps} | found & set(steps) and len(found) >= 2
    assert "_hparams_/session_start_info" in curves(place, "sft").summary_metadata


def test_jpo_begins_at_the_sft_policy(place):
    shown = curves(place, "jpo")
    for name in ("mean", "min", "max"):
        assert shown.Scalars(f"train/ratio_{name}")[0].value == 1.0
    assert shown.Scalars("train/kl")[0].value == 0.0


def test_the_report_has_the_documented_form(place, report):
    written = json.loads((place.folder / "run" / "evaluation" / "report.json").read_text(encoding="utf-8"))
    assert written == report
    assert [cell["arm"] for cell in report["cells"]] == ARMS
    for cell in report["cells"]:
        assert cell.keys() >= CELL
        assert cell["domain"] == "debt" and cell["episodes"] == 1
        low, high = cell["utility_ci"]
        assert low <= cell["utility"] <= high
    assert report["cells"][0]["faithfulness"] is None  # vanilla is asked for no emotion
    assert set(report["verdict"]) == {"debt"}
    assert report["verdict"]["debt"] in ("exceeds", "within noise", "below")


def test_one_scenario_proves_nothing(report):
    assert report["verdict"] == {"debt": "within noise"}
    assert {row["verdict"] for row in report["comparisons"]} == {"within noise"}


def test_played_episodes_are_of_test_scenarios_and_kept(place, report):
    folder = place.folder / "run" / "evaluation" / "episodes"
    assert {path.stem for path in folder.glob("*.parquet")} == {arm.replace(":", "-") for arm in ARMS}
    corpus = next(place.corpora.glob("*/episodes.parquet"))
    seen = {episode.scenario.id for episode in read_episodes(corpus)}
    for path in folder.glob("*.parquet"):
        assert {episode.split for episode in read_episodes(path)} == {"test"}
        assert not {episode.scenario.id for episode in read_episodes(path)} & seen


def test_a_second_evaluation_plays_nothing_again(place, report, capsys):
    folder = place.folder / "run" / "evaluation"
    before = {path: path.stat().st_mtime_ns for path in (folder / "episodes").iterdir()}
    assert place.evaluate() == report
    assert "nothing to play" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (folder / "episodes").iterdir()} == before
