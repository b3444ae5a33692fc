"""All three stages learn from CaSiNo as they do from any other corpus."""

import json
from pathlib import Path

import pytest
import yaml
from tiny_model import build_tiny_model
from tiny_runs import QUIET, SIZE, composed

from emodistill.errors import UserError
from emodistill.judges.ledger import Ledger
from evaluate import evaluate
from train import train

TINY = Path(__file__).parent / "casino_tiny.json"


class Place:
    def __init__(self, folder):
        self.folder, self.model = folder, build_tiny_model(folder / "model")

    def overrides(self):
        return [
            "data=casino",
            f"data.corpus.path={TINY}",
            f"data.corpus.folder={self.folder / 'corpora'}",
            f"run_dir={self.folder / 'run'}",
            f"model.base_model={self.model}",
            f"judge.ledger.path={self.folder / 'ledger.sqlite'}",
            "judge.judge.sense=null",  # the model has random weights
            *(f"size.{key}={value}" for key, value in SIZE.items()),
        ]

    def train(self, stage, *overrides):
        batch_size = f"data.dataset.batch_size={16 if stage == 'iql' else 2}"
        own = [f"stage={stage}", "monitor.save_every=1", batch_size, *QUIET]
        words = [] if stage == "iql" else ["sampler.max_new_tokens=6"]
        return train(composed("train", *self.overrides(), *own, *words, *overrides))

    def evaluate(self, arms):
        chosen = [f"arms=[{arms}]", "sampler.max_new_tokens=6", f"name={arms}"]
        return evaluate(composed("evaluate", *self.overrides(), *chosen))

    def result(self, stage):
        return json.loads((self.folder / "run" / stage / "finished.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("casino"))
    place.train("iql", "data.dataset.reward.concession=0", "data.dataset.reward.utility=1")
    return place


def test_the_selector_learns_from_it_and_knows_what_it_never_saw(place):
    result = place.result("iql")
    assert result["steps"] == SIZE["iql_steps"] and "val/fqe_value" in result
    assert result["val/pdwis_effective_size"] == 0.0
    assert not any(name.startswith("val/pdwis_value") for name in result)
    config = yaml.safe_load((place.folder / "run" / "iql" / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["corpus"]["unmarked"] == "neutral"


def test_words_are_learnt_from_the_turns_the_selector_values(place):
    place.train("sft")
    assert place.result("sft")["steps"] == SIZE["sft_steps"]
    assert (place.folder / "run" / "sft" / "adapter" / "adapter_model.safetensors").is_file()


def test_the_rubric_judges_what_people_said(place):
    if not (place.folder / "run" / "sft" / "adapter").is_dir():
        place.train("sft")
    place.train("jpo", "data.dataset.utterances=corpus")
    assert place.result("jpo")["steps"] == SIZE["jpo_steps"]
    assert Ledger(place.folder / "ledger.sqlite").count() > 10


def test_its_situations_are_played_with_language_models_only(place):
    place.evaluate("random")
    report = json.loads((place.folder / "run" / "random" / "report.json").read_text(encoding="utf-8"))
    assert [cell["domain"] for cell in report["cells"]] == ["campsite"]
    with pytest.raises(UserError, match="phrasebook has no lines for the domain 'campsite'"):
        place.evaluate("phrasebook_random")
