"""The bundled corpus: built once, resumably, from its recipe alone."""

import json
from dataclasses import replace

import pytest
from schedules import concession_schedule

from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.data import corpus as corpus_module
from emodistill.data.agent_specs import TeacherSpec
from emodistill.data.corpus import GeneratedScenarios, PlayedCorpus
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.prompts import system_words

GIVEN = {"domains": ["debt"], "episodes_per_scenario": 3, "split_seed": 0}


def make(folder, per_domain=10, personas=("vanilla", "threat"), vocabulary="goemotions28", **changes):
    seats = {
        "focal": TeacherSpec(vocabulary, concession_schedule()),
        "counterparty": SimulatedCounterpartySpec(personas),
    }
    scenarios = GeneratedScenarios(per_domain, 0)
    return PlayedCorpus("bundled", scenarios=scenarios, folder=str(folder), **seats, **(GIVEN | changes))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    corpus = make(tmp_path_factory.mktemp("corpora"))
    corpus.build()
    return corpus


def test_every_scenario_but_those_of_the_test_split_is_played_as_often_as_asked(built):
    episodes = built.episodes()
    seen = {(episode.scenario.id, episode.seed, episode.split) for episode in episodes}
    expected = {(s.id, seed, split) for split in ("train", "val") for s in built.scenarios(split) for seed in range(3)}
    assert seen == expected and len(episodes) == len(expected) == 8 * 3
    assert not {s.id for s in built.scenarios("test")} & {episode.scenario.id for episode in episodes}
    assert {episode.counterparty for episode in episodes} == {"behavioural:vanilla", "behavioural:threat"}


def test_emotions_are_drawn_uniformly_and_their_probability_is_stored(built):
    labels = load_vocabulary().labels
    turns = [turn for episode in built.episodes() for turn in episode.focal_turns]
    assert {turn.emotion_prob for turn in turns} == {1 / len(labels)}
    counts = [sum(turn.emotion == label for turn in turns) for label in labels]
    mean = len(turns) / len(labels)
    assert sum((count - mean) ** 2 / mean for count in counts) < 56  # chi-squared with 27 degrees: beyond 0.1 %
    assert {turn.emotion for episode in built.episodes() for turn in episode.turns if turn.speaker != "focal"} == {None}


def test_a_card_and_the_recipe_lie_beside_it(built):
    card = (built.folder / "README.md").read_text(encoding="utf-8")
    for words in ("simulated", "| debt | train | 7 | 21 |", "| debt | val | 1 | 3 |", "`emotion_prob`", "split_seed"):
        assert words in card
    assert json.loads((built.folder / "recipe.json").read_text(encoding="utf-8")) == built.recipe()
    assert {path.name for path in built.folder.iterdir() if path.name != ".lock"} == {
        "README.md",
        "episodes.parquet",
        "manifest.json",
        "recipe.json",
    }


def test_a_build_that_was_killed_goes_on_and_ends_the_same(built, tmp_path, monkeypatch):
    write, written = corpus_module.write_episodes, []

    def until_the_power_goes(episodes, path):
        if len(written) == 2:
            raise RuntimeError("power cut")
        written.append(path)
        write(episodes, path)

    broken = make(tmp_path)
    monkeypatch.setattr(corpus_module, "write_episodes", until_the_power_goes)
    with pytest.raises(RuntimeError, match="power cut"):
        broken.build()
    assert not (broken.folder / "episodes.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in written}
    again = []
    monkeypatch.setattr(
        corpus_module, "write_episodes", lambda episodes, path: (again.append(path), write(episodes, path))
    )
    make(tmp_path).build()
    assert len(again) == 2 and not set(again) & set(before)  # the third part, and the whole
    assert make(tmp_path).episodes() == built.episodes()


def test_a_corpus_on_disk_is_not_built_again(built, monkeypatch):
    monkeypatch.setattr(corpus_module, "write_episodes", lambda *_: pytest.fail("built again"))
    assert built.build() == built.folder / "episodes.parquet"


@pytest.mark.parametrize(
    "change",
    [
        {"episodes_per_scenario": 4},
        {"personas": ["vanilla"]},
        {"personas": "population:2"},
        {"personas": "population:3"},
        {"split_seed": 1},
        {"vocabulary": "ekman7"},
        {"domains": ["debt", "student"]},
        {"per_domain": 20},
    ],
)
def test_another_recipe_is_another_folder(built, change):
    assert make(built.root, **change).folder != built.folder
    assert make(built.root).folder == built.folder


def test_what_the_words_of_a_vocabulary_of_one_s_own_are_read_as_is_part_of_the_recipe(tmp_path):
    """The phrasebook draws its sentences by it, and no fingerprint holds it."""
    form = "name: own\nlabels:\n  pressure: {{directive: press, perceived_as: [{}]}}\n"
    (tmp_path / "angry.yaml").write_text(form.format("anger"))
    (tmp_path / "annoyed.yaml").write_text(form.format("annoyance"))
    (tmp_path / "again.yaml").write_text(form.format("anger"))
    angry, annoyed, again = (
        make(tmp_path, vocabulary=str(tmp_path / f"{name}.yaml")).folder for name in ("angry", "annoyed", "again")
    )
    assert angry == again != annoyed


def test_changed_assets_are_another_recipe(built, monkeypatch):
    monkeypatch.setattr(corpus_module, "assets_fingerprint", lambda assets: "0" * 12)
    assert make(built.root).folder != built.folder


def test_what_the_focal_side_must_not_know_is_in_no_prompt():
    """Neither the counterparty's own columns nor its target, or what a file says of outcomes: only listed columns."""
    for scenario in GeneratedScenarios(10, 0).load("debt"):
        fields = scenario.rules.fields
        secret = [column for column in scenario.context if fields.get(column, {}).get("seen_by") == "counterparty"]
        secrets = [scenario.context[column].strip() for column in secret]
        told = replace(scenario, context=scenario.context | {"Outcome": "SECRET", "Debtor Target Days": "SECRET"})
        words = system_words(told)
        assert "SECRET" not in words and secrets
        assert not [value for value in secrets if value in words]
        assert scenario.rules.say(scenario.focal_target) in words
        assert scenario.rules.say(scenario.counterparty_target) not in words


@pytest.mark.parametrize(
    "change", [{"episodes_per_scenario": 0}, {"episodes_per_scenario": 1.5}, {"batch": 0}, {"split_seed": -1}]
)
def test_an_impossible_number_is_refused_by_its_key(tmp_path, change):
    with pytest.raises(UserError, match=f"data.corpus.{next(iter(change))}"):
        make(tmp_path, **change)


def test_an_unknown_domain_or_persona_is_named(tmp_path):
    with pytest.raises(UserError, match="debts"):
        make(tmp_path, domains=["debts"])
    with pytest.raises(UserError, match="bully"):
        make(tmp_path, personas=["bully"]).build()
