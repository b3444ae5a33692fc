import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from reporting_cases import FIGURE, HOSTILE, TABLE, some_played, write_some_report

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.reporting.model_card import SelectedCheckpoint, write_model_card
from emodistill.reporting.page import sort_value
from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Column, distinct


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_some_report(folder)
    return folder


def test_everything_is_written_and_nothing_half(folder):
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if not name.startswith("tensorboard/events")]
    tables = [f"tables/arms.{kind}" for kind in ("md", "parquet", "tex")]
    figures = ["figures/line.png", "figures/utility.png"]
    assert names == [*figures, "report.html", "report.json", "report.md", *tables]


def test_the_json_keeps_what_it_was_given_and_adds_the_tables(folder):
    report = json.loads((folder / "report.json").read_text())
    assert report["cells"] == [1.0, None] and report["about"]["run"] == "tiny"
    assert report["tables"]["arms"][0]["utility"] == [0.5, 0.25, 0.75] and report["tables"]["arms"][1]["p"] is None
    assert report["verdicts"][1] == f"debt: {HOSTILE}" and report["answer"] == "emodistill is above vanilla."


def test_the_markdown_has_the_order_of_the_page(folder):
    text = (folder / "report.md").read_text()
    order = ["emodistill is above vanilla.", "## Verdicts", "## Figures", "## Tables", "## What was played"]
    assert sorted(order, key=text.index) == order
    assert "](figures/line.png)" in text and "<img" not in text.replace("\\<img", "")


def test_the_page_holds_its_words_as_words(folder):
    text = (folder / "report.html").read_text()
    assert text.count("</script>") == 2 and text.count("<script") == 2
    assert "<img src=x" not in text and "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


def test_the_dialogues_are_read_back_from_the_page(folder):
    text = (folder / "report.html").read_text()
    block = text.split('id="dialogues">')[1].split("</script>")[0]
    assert json.loads(block)["episodes"][-1]["turns"][0]["t"] == HOSTILE


def test_an_older_report_leaves_nothing_behind(tmp_path):
    write_some_report(tmp_path)
    write_some_report(tmp_path, played=[], result=AnalysisResult())
    assert list((tmp_path / "tables").iterdir()) == [] and list((tmp_path / "figures").iterdir()) == []
    assert not (tmp_path / "tensorboard").exists()
    assert "No verdict was asked for" in (tmp_path / "report.html").read_text()


def test_equal_names_become_two_files_and_paths_become_names():
    from dataclasses import replace

    named = distinct([TABLE, replace(TABLE, title="second"), replace(TABLE, name="../up/x y")])
    assert [table.name for table in named] == ["arms", "arms_2", "up-x-y"]
    assert named[1].title == "second" and distinct([FIGURE])[0] is FIGURE


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [("number", 0.5, "0.5"), ("number", None, ""), ("number", float("nan"), ""), ("interval", (0.1, 0, 1), "0.1")]
    + [("interval", None, ""), ("text", "a", "a")],
)
def test_sorting_goes_by_raw_values(kind, value, shown):
    assert sort_value(Column("x", "x", kind), value) == shown


def a_card(tmp_path, base="embedded", run="demo", **identity):
    stage = tmp_path / run / "jpo"
    adapter = stage / "adapter"
    adapter.mkdir(parents=True)
    (tmp_path / "README.md").write_text("a card")
    (stage / "corpus.json").write_text(json.dumps({"episodes": str(tmp_path / "e.parquet"), "scenarios": {"a": "x"}}))
    learner = {"kl_coef": 0.04, "policy": {"four_bit": True}, "api_key_env": "SECRET"}
    (stage / "config.yaml").write_text(yaml.safe_dump({"learner": learner, "seed": 3}))
    known = {"base_model": base, "fingerprint": "f00d", "vocabulary": load_vocabulary().name, **identity}
    write_model_card(
        adapter, known, 40, {"val/reward": 7.07458, "train/loss": 1.0}, SelectedCheckpoint(20, "val/reward", 8.5)
    )
    return (adapter / "README.md").read_text()


def test_a_model_card_says_what_it_is_and_is_not_for(tmp_path):
    card = a_card(tmp_path)
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct" and front["license"] == "apache-2.0"
    assert "Episodes of 1 scenarios" in card and f"dataset card is `{tmp_path / 'README.md'}`" in card
    assert "| val/reward | 7.075 |" in card and "| `learner.kl_coef` | 0.04 |" in card and "40 optimizer steps" in card
    assert "PeftModel.from_pretrained" in card and f"python evaluate.py run_dir={tmp_path / 'demo'}" in card
    assert "docs/ethics.md" in card and "no claim about people" in card and "Not for" in card
    assert "SECRET" not in card and "train/loss" not in card
    assert "of step 20, the best validation (`val/reward` 8.5)" in card


def test_a_card_does_not_name_the_account_that_it_was_made_under(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    card = a_card(tmp_path)
    assert str(tmp_path / "e.parquet") not in card and "from `~/e.parquet`; its dataset card is `~/README.md`" in card


@pytest.mark.parametrize(
    ("folder", "override"),
    [
        ("checkpoints/demo", "run=demo"),
        ("checkpoints/paper/debt", "run=paper/debt"),
        ("checkpoints/demo/seeds/1", "run_dir=checkpoints/demo/seeds/1"),
        ("checkpoints/demo/studies/control/a/seeds/1", "run_dir=checkpoints/demo/studies/control/a/seeds/1"),
        ("elsewhere/demo", "run_dir=elsewhere/demo"),
    ],
)
def test_a_card_leads_to_its_run(tmp_path, monkeypatch, folder, override):
    monkeypatch.chdir(tmp_path)
    card = a_card(Path(), run=folder)
    assert card.count(f"`python evaluate.py {override}`") == 2
    assert f"of stage `jpo`, run `{override.split('=')[1]}`" in card


def test_a_card_of_another_model_leaves_the_licence_to_it(tmp_path):
    card = a_card(tmp_path, base="org/model", emotions="self_selected")
    assert yaml.safe_load(card.split("---")[1])["license"] == "other" and "emotions in training: self_selected" in card


def test_episodes_that_several_training_seeds_share_are_counted_and_embedded_once(tmp_path):
    vanilla, _, evil = some_played(scenarios=2, seeds=1)
    trained = [replace(some_played(scenarios=2, seeds=1)[1], training_seed=seed) for seed in (0, 1)]
    shared = [replace(one, training_seed=seed) for one in (vanilla, evil) for seed in (0, 1)]
    text = write_some_report(tmp_path, [*shared, *trained]).read_text(encoding="utf-8")
    assert "8 episodes: 3 arms with 2 training seeds on 2 scenarios, 2 pairs of scenario and seed." in text
    embedded = json.loads(re.search('id="dialogues">(.*?)</script>', text, re.DOTALL)[1])
    names = [player["name"] for player in embedded["players"]]
    assert names[0] == "vanilla" and names[2:] == ["emodistill, training seed 0", "emodistill, training seed 1"]
    assert len(names) == 4 and len(embedded["episodes"]) == 8
    assert "One pair of dialogues: emodistill, training seed 0 and evil" in text
