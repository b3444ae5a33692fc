"""Self-play corpora: killed and resumed, with faults; always the same episodes."""

from collections import Counter
from dataclasses import dataclass

import pytest
from schedules import concession_schedule
from scripted_backends import ScriptedBackendSpec, obedient
from selfplay_cases import make, seats

from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.data import corpus as played_corpus
from emodistill.data.agent_specs import ChatAgentSpec
from emodistill.errors import UserError
from emodistill.negotiation.agents import Fault
from emodistill.negotiation.schedule import CounterpartySchedule, OpenOffers


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    corpus = make(tmp_path_factory.mktemp("whole"))
    corpus.build()
    return corpus


def names(corpus):
    return {path.name for path in corpus.folder.iterdir() if path.name != ".lock"}


def test_models_play_every_scenario_but_those_of_the_test_split(whole):
    episodes = whole.episodes()
    expected = {
        (s.domain, s.id, seed) for s in whole.all_scenarios for seed in range(3) if s not in whole.scenarios("test")
    }
    assert {(e.scenario.domain, e.scenario.id, e.seed) for e in episodes} == expected and len(episodes) == 2 * 8 * 3
    assert {e.focal_agent for e in episodes} == {"uniform/scripted"} and {e.behaviour for e in episodes} == {"uniform"}
    assert {e.counterparty for e in episodes} == {"lm:scripted"}
    assert all(e.end != "invalid" and not t.offer_appended for e in episodes for t in e.turns)
    assert {t.emotion_prob for e in episodes for t in e.focal_turns} == {1 / 28}
    assert len({tuple(t.offer for t in e.turns) for e in episodes if e.scenario.id == "debt-000"}) == 3  # by seed
    assert names(whole) == {"README.md", "episodes.parquet", "manifest.json", "recipe.json"}


def test_the_card_says_who_played_and_what_slipped(tmp_path):
    def violates_once(dialogue, prompt, seed):
        return "Debtor: fine." if seed % 5 == 0 else obedient(dialogue, prompt, seed)

    corpus = make(tmp_path, *seats(violates_once), domains=["debt"])
    corpus.build()
    turns = [turn for episode in corpus.episodes() for turn in episode.focal_turns]
    kinds = Counter(kind for turn in turns for kind in turn.role_violations)
    assert kinds["other_side"] > 3 and set(kinds) == {"other_side"}
    card = (corpus.folder / "README.md").read_text(encoding="utf-8")
    affected = sum(bool(turn.role_violations) for turn in turns)
    assert f"| focal | {len(turns)} | {affected} | {kinds.total()}, {kinds.total()} other" in card
    assert "the language model scripted" in card and "phrasebook" not in card and "behavioural" not in card


@pytest.mark.parametrize("parts", [0, 1, 4])
def test_a_kill_loses_the_batch_under_way_and_no_more(whole, tmp_path, monkeypatch, parts):
    write, done = played_corpus.write_episodes, []

    def until_the_power_goes(episodes, path):
        if len(done) == parts:
            raise RuntimeError("power cut")
        done.append(path)
        write(episodes, path)

    monkeypatch.setattr(played_corpus, "write_episodes", until_the_power_goes)
    with pytest.raises(RuntimeError, match="power cut"):
        make(tmp_path).build()
    again = []
    monkeypatch.setattr(played_corpus, "write_episodes", lambda e, path: (again.append(path), write(e, path)))
    resumed = make(tmp_path)
    resumed.build()
    assert not set(again) & set(done) and len(again) == 10 - parts + 1  # what was missing, and the whole
    assert resumed.episodes() == whole.episodes() and names(resumed) == names(whole)


def test_a_corpus_on_disk_opens_no_model(whole):
    focal, counterparty = seats()
    make(whole.root, focal, counterparty).episodes()
    make(whole.root, focal, counterparty).build()
    assert focal.backend.opened == counterparty.backend.opened == 0


def test_faults_make_episodes_invalid_and_the_rest_is_played(tmp_path):
    def unsteady(dialogue, prompt, seed):
        return Fault("line dead") if seed % 11 == 0 else obedient(dialogue, prompt, seed)

    corpus = make(tmp_path, *seats(unsteady))
    corpus.build()
    ends = Counter(episode.end for episode in corpus.episodes())
    assert 0 < ends["invalid"] < 48 and ends.total() == 48
    assert {e.fault for e in corpus.episodes() if e.end == "invalid"} == {"line dead"}
    assert f"- {ends['invalid']} x line dead" in (corpus.folder / "README.md").read_text(encoding="utf-8")


def test_an_outage_is_not_kept_as_episodes(tmp_path):
    working = []

    def down(dialogue, prompt, seed):
        return obedient(dialogue, prompt, seed) if working else Fault("server down")

    with pytest.raises(UserError, match="none of 5 episodes could be played .server down."):
        make(tmp_path, *seats(down)).build()
    working.append(True)
    corpus = make(tmp_path, *seats(down))
    corpus.build()
    assert {episode.end for episode in corpus.episodes()} <= {"deal", "walk_away", "deadline"}


def test_a_few_that_fail_are_bad_luck_and_kept(tmp_path):
    """Three that fail alike tell of no outage, or else a small corpus could never be finished."""
    corpus = make(tmp_path, *seats(lambda *_: Fault("line dead")), domains=["debt"], batch=3, episodes_per_scenario=1)
    corpus.build()
    assert {episode.end for episode in corpus.episodes()} == {"invalid"}


@pytest.mark.parametrize("retries", [0, 3])
def test_a_slip_is_asked_for_again_as_often_as_the_seat_says(tmp_path, retries):
    def violates(dialogue, prompt, seed):
        return f"Creditor: {obedient(dialogue, prompt, seed)}" if dialogue.side == "focal" else "I wait."

    corpus = make(tmp_path, *seats(violates, retries=retries), domains=["debt"], episodes_per_scenario=1)
    corpus.build()
    turns = [turn for episode in corpus.episodes() for turn in episode.focal_turns]
    assert {turn.role_violations for turn in turns} == {("label",) * (1 + retries)}


@dataclass
class Trained:
    """Where a trained selector would come from; only what it is counts here."""

    adapter: str

    def recipe(self):
        return {"selector": self.adapter}


def test_another_trained_selector_is_another_corpus_where_it_chooses_and_only_there(tmp_path):
    def folders(emotions):
        backend = ScriptedBackendSpec(obedient)
        given = [(backend, emotions, "goemotions28", concession_schedule(), Trained(name)) for name in ("one", "two")]
        return {make(tmp_path, ChatAgentSpec(*each)).folder for each in given}

    assert len(folders("selector")) == 2 and len(folders("random")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 6},
        {"focal": seats(retries=0)[0]},
        {"focal": seats(emotions="none")[0]},
        {"focal": seats(emotions="fixed:joy")[0]},
        {"focal": seats(offers=concession_schedule(reserve=0.4))[0]},
        {"focal": seats(offers=OpenOffers(concession_schedule()))[0]},
        {"counterparty": SimulatedCounterpartySpec(["vanilla"])},
        {"counterparty": seats(bargains="model")[1]},
        {"counterparty": seats(schedule=CounterpartySchedule(concession_schedule(), noise=0.1))[1]},
        {"counterparty": seats(personas=["a"], sentences={"a": "You are calm."})[1]},
        {"counterparty": seats(personas=["a"], sentences={"a": "You are cold."})[1]},
    ],
)
def test_another_recipe_is_another_folder(whole, change):
    folders = {make(whole.root, **change).folder, make(whole.root).folder}
    assert len(folders) == 2 and make(whole.root, shard="1/2").folder == whole.folder


def test_mistakes_of_a_seat_are_named():
    with pytest.raises(UserError, match="emotions=happy: use random"):
        seats(emotions="happy")
    with pytest.raises(UserError, match="hope"):
        seats(emotions="fixed:hope")
    with pytest.raises(UserError, match="needs a trained selector"):
        seats(emotions="selector")
    with pytest.raises(UserError, match="no persona 'b'; there are a"):
        seats(personas=["b"], sentences={"a": "x"})
    with pytest.raises(UserError, match="bargains=rule"):
        seats(bargains="rule")
