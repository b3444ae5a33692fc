"""Playing arms: pairs, what is kept, and what a second call does."""

import pytest
from schedules import concession_schedule

from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.data.schema import read_episodes
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import parse_arms
from emodistill.evaluation.runner import Runner, first_of_each_domain
from emodistill.negotiation.agents import FixedEmotion
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker

VOCABULARY = load_vocabulary()


@pytest.fixture(scope="module")
def perceiver():
    return load_perceiver("counterparty")


@pytest.fixture
def made(tmp_path, perceiver):
    """Makes runners that write down whose speakers and selectors they asked for."""

    def make(domains=("debt", "student"), count=2, seeds=2):
        asked = []

        def speaker(words):
            asked.append(words)
            return PhrasebookSpeaker(VOCABULARY)

        def selector():
            asked.append("selector")
            return FixedEmotion(VOCABULARY, "joy")

        def table():
            asked.append("table")
            return FixedEmotion(VOCABULARY, "fear")

        scenarios = [s for domain in domains for s in generate_scenarios(domain, 10)[:count]]
        counterparty = BehaviouralCounterparty(perceiver, "test:4")
        sides = (counterparty, concession_schedule(), speaker, selector)
        return Runner(scenarios, seeds, *sides, VOCABULARY, tmp_path, mean_return=table), asked

    return make


def arms(*names):
    return parse_arms(names, VOCABULARY)


def episodes_of(runner, arms):
    return {result.arm: result.episodes for result in runner.play(arms)}


def keys(episodes):
    return [(e.scenario.domain, e.scenario.id, e.seed, e.counterparty) for e in episodes]


def test_every_arm_plays_the_same_scenarios_seeds_and_counterparties(made):
    runner, _ = made()
    played = episodes_of(runner, arms("random", "phrasebook_vanilla", "fixed:anger"))
    assert list(played) == ["random", "phrasebook_vanilla", "fixed:anger"]
    assert keys(played["random"]) == keys(played["phrasebook_vanilla"]) == keys(played["fixed:anger"])
    assert len(set(keys(played["random"]))) == 8
    for name, episodes in played.items():
        assert {episode.split for episode in episodes} == {"test"}
        assert {episode.focal_agent for episode in episodes} == {name}
    assert all(turn.emotion is None for episode in played["phrasebook_vanilla"] for turn in episode.focal_turns)
    assert {turn.emotion for episode in played["fixed:anger"] for turn in episode.focal_turns} == {"anger"}


def test_few_seeds_meet_more_than_one_persona(made):
    runner, _ = made(seeds=1, count=4)
    (episodes,) = episodes_of(runner, arms("random")).values()
    assert len({episode.counterparty for episode in episodes}) == 4


def test_the_same_call_plays_the_same_episodes(made, tmp_path):
    first, _ = made(count=1)
    second, _ = made(count=1)
    played = episodes_of(first, arms("random"))
    (tmp_path / "episodes" / "random.parquet").unlink()
    assert episodes_of(second, arms("random")) == played


def test_an_arm_on_disk_is_not_played_again(made, tmp_path):
    runner, asked = made(count=1)
    runner.play(arms("vanilla"))
    kept = (tmp_path / "episodes" / "vanilla.parquet").read_bytes()
    assert asked == ["base"]
    played = episodes_of(runner, arms("vanilla", "phrasebook_iql"))
    assert asked == ["base", "phrasebook", "selector"]
    assert (tmp_path / "episodes" / "vanilla.parquet").read_bytes() == kept
    assert list(played) == ["vanilla", "phrasebook_iql"]


def test_arms_that_share_words_share_a_speaker(made):
    runner, asked = made(domains=["debt"], count=1, seeds=1)
    runner.play(arms("vanilla", "phrasebook_random", "random", "fixed:joy"))
    assert asked == ["base", "phrasebook"]


OWN = """
from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import Move


class Stubborn:
    name = "stubborn mule"

    def __init__(self):
        self.begun, self.usage = 0, Usage()

    def begin(self, negotiations):
        self.begun += len(negotiations)

    def act(self, negotiations):
        assert self.begun >= len(negotiations)
        self.usage = Usage(self.usage.prompt_tokens + len(negotiations))
        targets = [negotiation.scenario.focal_target for negotiation in negotiations]
        return [Move(f"I need {target}.", "propose", target, "anger", 0.5) for target in targets]


class Meek(Stubborn):
    name, is_local_model = "meek", True

    def act(self, negotiations):
        return [Move("As you like.") for _ in negotiations]
"""


def test_agents_of_ones_own_decide_everything_themselves(made, tmp_path, monkeypatch):
    (tmp_path / "own_agent.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    runner, asked = made()
    needs = [piece.needs.model for piece in runner.pieces(arms("own_agent.Stubborn", "own_agent.Meek"))]
    assert needs == [False, True]  # the second says that a language model is behind it
    mule, other, random = runner.play(arms("own_agent.Stubborn", "own_agent.Meek", "phrasebook_random"))
    assert keys(mule.episodes) == keys(other.episodes) == keys(random.episodes)
    assert asked == ["phrasebook"]
    assert {episode.behaviour for episode in other.episodes} == {"meek"}
    assert {turn.offer for episode in other.episodes for turn in episode.focal_turns} == {None}
    turns = [turn for episode in mule.episodes for turn in episode.focal_turns]
    assert {(turn.emotion, turn.emotion_prob) for turn in turns} == {("anger", 0.5)}
    assert all(turn.offer == episode.scenario.focal_target for episode in mule.episodes for turn in episode.focal_turns)
    assert {(episode.behaviour, episode.focal_agent) for episode in mule.episodes} == {
        ("stubborn mule", "own_agent.Stubborn")
    }
    assert mule.cost.prompt_tokens == len(turns) and random.cost.prompt_tokens == 0


def test_what_was_played_before_an_arm_failed_is_kept(made, tmp_path):
    runner, _ = made(domains=["debt"], count=1)

    def missing():
        raise UserError("no selector")

    runner.selector = missing
    with pytest.raises(UserError, match="no selector"):
        runner.play(arms("phrasebook_vanilla", "iql", "vanilla"))
    kept = {path.name for path in (tmp_path / "episodes").iterdir()}
    assert kept == {"phrasebook_vanilla.parquet", "phrasebook_vanilla.json"}


def test_a_label_makes_a_file_name(made, tmp_path):
    runner, _ = made(domains=["debt"], count=1, seeds=1)
    played = episodes_of(runner, arms("fixed:joy"))
    assert read_episodes(tmp_path / "episodes" / "fixed-joy.parquet") == played["fixed:joy"]


def test_nothing_to_play_is_an_error(made):
    for arguments in ({"count": 0}, {"seeds": 0}, {"seeds": 1.5}):
        with pytest.raises(UserError, match="nothing to play|episodes_per_scenario=.*: a whole number of at least 1"):
            made(**arguments)


def test_the_first_of_each_domain():
    scenarios = [s for domain in ("debt", "student") for s in generate_scenarios(domain, 10)[:3]]
    assert first_of_each_domain(scenarios, 2) == [*scenarios[:2], *scenarios[3:5]]
    assert first_of_each_domain(scenarios[::-1], 1) == [scenarios[5], scenarios[2]]
    assert first_of_each_domain(scenarios, None) == scenarios
    assert first_of_each_domain(scenarios, 9) == scenarios
    for wrong in (0, -1, 1.5, "abc", True):
        with pytest.raises(UserError, match=f"scenarios_per_domain={wrong}: a whole number of .* 1, or null for all"):
            first_of_each_domain(scenarios, wrong)
