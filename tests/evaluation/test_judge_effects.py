"""What followed a turn is read from the episode, and correlations are those within groups."""

from dataclasses import replace

import numpy as np
import pytest
from schedules import concession_schedule

from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.data.schema import Episode, write_episodes
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation import judge_effects
from emodistill.evaluation.judge_effects import effects, within_groups
from emodistill.judges.request import Judgement
from emodistill.negotiation.agents import FocalAgent, UniformEmotion
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

SCENARIO = Scenario("debt-000", "debt", focal_target=30.0, counterparty_target=130.0)


def episode(seed, words, answer, act="propose"):
    """The debtor stands at 120 days (position .1); after `words` comes `answer`."""
    turns = (
        Turn(1, "focal", "30 days.", offer=30.0),
        Turn(1, "counterparty", "120 days.", offer=120.0),
        Turn(2, "focal", words, emotion="joy", offer=60.0),
        Turn(2, "counterparty", "Well.", offer=answer, act=act),
    )
    return Episode(
        f"e{seed}", "val", SCENARIO, "uniform", "teacher", "behavioural:stoic", seed, turns, "deadline", None
    )


class ByLength:
    name, version = "length", "1"

    def judge(self, requests, on_judgement=None):
        return [Judgement(min(10.0, 1.0 + len(request.utterance) / 10)) for request in requests]


def test_concessions_are_moves_in_position_and_acceptance_takes_the_offer():
    played = [episode(0, "a", 110.0), episode(1, "b", None, "accept"), episode(2, "c", None, "walk_away")]
    second = [one for one in effects(played) if one.group[2] == 2]
    assert [one.concession for one in second] == [
        pytest.approx(0.1),
        pytest.approx(0.6),
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert [one.request.utterance for one in second] == ["a", "b", "c"] and len(second[0].request.history) == 2
    first = [one for one in effects(played) if one.group[2] == 1]
    assert len(first) == 3 and np.isnan([one.concession for one in first]).all()  # nothing to move from
    assert effects(played[:2]) == []  # too small a group


def test_differences_between_groups_do_not_count():
    groups = [0, 0, 0, 1, 1, 1]
    scores, effect = np.array([1.0, 2, 3, 7, 8, 9]), np.array([9.0, 8, 7, 30, 20, 10])
    value, low, high = within_groups(scores, effect, groups, groups)
    assert value == low == high == pytest.approx(-1) and np.corrcoef(scores, effect)[0, 1] > 0
    assert within_groups(scores, -effect, groups, groups)[0] == pytest.approx(1)
    assert np.isnan(within_groups(np.ones(6), effect, groups, groups)).all()
    assert np.isnan(within_groups(scores, np.full(6, np.nan), groups, groups)).all()


def test_rounds_of_one_scenario_are_no_evidence_of_their_own():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(60):
        traits = rng.normal(size=(2, 8, 1, 5)) + 0.5 * rng.normal(size=(2, 8, 6, 5))  # scenarios, rounds, episodes
        scores, effect = traits.reshape(2, -1)
        groups, scenarios = np.repeat(np.arange(48), 5), np.repeat(np.arange(8), 30)
        _, low, high = within_groups(scores, effect, groups.tolist(), scenarios.tolist())
        missed += not low <= 0 <= high
    assert missed <= 8  # three are expected; with groups as units a third of the intervals miss


def test_a_judge_that_likes_what_works_correlates(tmp_path):
    played = [episode(i, "w" * (10 + 5 * i), 118.0 - 5 * i) for i in range(6)]
    line = judge_effects.row("length", ByLength(), effects(played), seed=0)
    assert line.startswith("| `length` | 12 | 2 | +1.00 [+nan, +nan] |")  # one scenario
    played += [replace(one, scenario=replace(SCENARIO, id="debt-001")) for one in played]
    line = judge_effects.row("length", ByLength(), effects(played), seed=0)
    assert line.startswith("| `length` | 24 | 4 | +1.00 [+1.00, +1.00] |")


@pytest.fixture(scope="module")
def played():
    """Six episodes of the teacher against two drawn parties."""
    vocabulary = load_vocabulary()
    focal = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), PhrasebookSpeaker(vocabulary))
    games = [Negotiation(scenario, seed) for scenario in generate_scenarios("debt", 3, 0) for seed in (0, 1)]
    play(games, focal, SimulatedCounterpartySpec(["population:2"]).open())
    return [Episode.of(game, "val", "uniform", "teacher") for game in games]


@pytest.fixture(scope="module")
def simulation(played):
    return judge_effects.simulation_of(played, ["population:2"])


def test_replies_to_one_context_are_each_said_to_the_party_of_the_episode(played, simulation):
    places = judge_effects.proposals(played, rounds=3)
    found = judge_effects.played_on(
        list(judge_effects.teacher_replies(places, load_vocabulary(), 6, "several", seed=0)), simulation
    )
    groups = {}
    for one in found:
        groups.setdefault(one.group, []).append(one)
    assert len(groups) == len(places) > 10
    for members in groups.values():
        assert len({one.request.history for one in members}) == 1 < len({one.request.emotion for one in members})
        assert len({one.request.origin for one in members}) == 1  # the same offer is to be said
    gained = [np.ptp([one.concession for one in members]) for members in groups.values()]
    assert np.mean(np.array(gained) > 0) > 0.5  # words make a difference
    assert not np.isnan([one.concession for one in found]).any() and all(one.mood is not None for one in found)
    line = judge_effects.row("simulation", simulation, found, seed=0)
    concession, mood = (float(cell.split()[0]) for cell in line.split("|")[4:6])
    assert concession > 0.5 and mood > 0  # it counts both
    blind = judge_effects.row("length", ByLength(), found, seed=0)
    assert abs(float(blind.split("|")[4].split()[0])) < 0.5


def test_one_emotion_leaves_only_how_it_is_said(played, simulation):
    places = judge_effects.proposals(played, rounds=2)
    replies = list(judge_effects.teacher_replies(places, load_vocabulary(), 6, "one", seed=0))
    for (episode, turn), requests in replies:
        assert {request.emotion for request in requests} == {episode.focal_turns[turn].emotion}
    found = judge_effects.played_on(replies, simulation)
    for group in {one.group for one in found}:
        said = [one.request.utterance for one in found if one.group == group]
        assert len(said) == len(set(said)) >= judge_effects.LEAST


def test_the_command_ranks_replies_to_the_same_contexts(played, tmp_path, monkeypatch, capsys):
    corpus = tmp_path / "episodes.parquet"
    write_episodes(played, corpus)
    words = ["judge_effects", str(corpus), "--judge", "simulation", "arguments", "--personas", "population:2"]
    monkeypatch.setattr("sys.argv", [*words, "--replies", "4", "--groups", "5"])
    judge_effects.main()
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split("|")[1:4] for row in rows] == [
        [" `simulation` ", " 20 ", " 5 "],
        [" `arguments` ", " 20 ", " 5 "],
    ]
    monkeypatch.setattr("sys.argv", [*words, "--replies", "2"])
    with pytest.raises(UserError, match="--replies 2: at least 3"):
        judge_effects.main()


def test_parties_that_cannot_be_asked_again_are_refused():
    people = replace(episode(0, "a", 110.0), counterparty="casino")
    with pytest.raises(UserError, match="played against 'casino', which cannot be asked again"):
        judge_effects.simulation_of([people], ["population:2"])
