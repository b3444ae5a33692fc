"""What an arm cost, repetitions of an arm, and arms that name their emotions: the runner's part in it."""

import json
from dataclasses import replace

import pytest
from schedules import concession_schedule
from scripted_backends import ScriptedBackend, ScriptedCompleter, obedient

from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import parse_arms
from emodistill.evaluation.results import Cost
from emodistill.evaluation.runner import Runner
from emodistill.evaluation.speakers import Speakers, speaker_of
from emodistill.language_models.completion import Usage, total
from emodistill.negotiation.agents import FixedEmotion
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.prompts import with_name
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import EndpointChatBackend

VOCABULARY = load_vocabulary()


class Metered(ScriptedCompleter):
    """Bills ten tokens read and two written a request."""

    def __init__(self, script, cost=0.5):
        super().__init__(script)
        self.cost = cost

    def complete(self, requests, on_answer=None):
        answers = super().complete(requests, on_answer)
        return [replace(answer, usage=Usage(10, 2, self.cost, 0.1, 1)) for answer in answers]


@pytest.fixture
def make(tmp_path):
    def runner(speaker):
        counterparty = BehaviouralCounterparty(load_perceiver("counterparty"), ["vanilla", "charmer"])
        joy = lambda: FixedEmotion(VOCABULARY, "joy")  # noqa: E731  # stands for the trained selector
        scenarios = generate_scenarios("debt", 10)[:2]
        return Runner(
            scenarios, 2, counterparty, concession_schedule(), speaker, joy, VOCABULARY, tmp_path, mean_return=joy
        )

    return runner


def arms(*names):
    return parse_arms(names, VOCABULARY)


def spoken_by(script):
    return lambda words: ChatSpeaker(ScriptedBackend(script), VOCABULARY)


@pytest.mark.parametrize(("price", "money"), [(0.5, 0.5), (None, None), (0.0, 0.0)])
def test_an_arm_costs_what_its_endpoint_billed(make, tmp_path, price, money):
    completer = Metered(lambda request: "We insist.", price)
    runner = make(lambda words: ChatSpeaker(EndpointChatBackend(completer), VOCABULARY))
    first, second = runner.play(arms("endpoint_vanilla", "endpoint_iql"))
    for played in (first, second):
        asked = sum(len(episode.focal_turns) for episode in played.episodes)
        expected = None if money is None else pytest.approx(money * asked)
        assert (played.cost.prompt_tokens, played.cost.generated_tokens) == (10 * asked, 2 * asked)
        assert played.cost.money == expected and played.cost.seconds > 0
    kept = json.loads((tmp_path / "episodes" / "endpoint_iql.json").read_text())
    assert Cost(**kept) == second.cost == runner.play(arms("endpoint_iql"))[0].cost


def test_what_reads_no_token_costs_seconds_only(make, tmp_path):
    runner = make(lambda words: PhrasebookSpeaker(VOCABULARY))
    (played,) = runner.play(arms("phrasebook_random"))
    assert replace(played.cost, seconds=0.0) == Cost() and played.cost.seconds > 0
    assert played == runner.play(arms("phrasebook_random"))[0]
    (tmp_path / "episodes" / "phrasebook_random.json").unlink()
    assert runner.play(arms("phrasebook_random"))[0].cost == Cost(money=None)


def test_unknown_prices_make_an_unknown_sum():
    paid, free, nothing = Usage(5, 1, 0.2, 1.0, 1), Usage(5, 1, None, 1.0, 1), Usage()
    assert total([paid, paid, nothing]).cost == pytest.approx(0.4)
    assert total([paid, free]).cost is None
    assert total([]) == Usage(cost=0.0)


def test_a_repetition_says_other_words_to_the_same_counterparties(make):
    runner = make(spoken_by(obedient))
    first, again = (one.episodes for one in runner.play(arms("random", "random#2")))
    assert [(e.scenario.id, e.seed, e.counterparty) for e in first] == [
        (e.scenario.id, e.seed, e.counterparty) for e in again
    ]
    for one, other in zip(first, again, strict=True):
        assert [turn.emotion for turn in one.focal_turns] != [turn.emotion for turn in other.focal_turns]
        assert one.focal_turns[0].text != other.focal_turns[0].text
    assert {episode.focal_agent for episode in again} == {"random#2"}


def test_the_baseline_of_mean_returns_plays_with_any_generator(make):
    (episodes,) = (one.episodes for one in make(spoken_by(obedient)).play(arms("mean_return+sft")))
    assert {turn.emotion for episode in episodes for turn in episode.focal_turns} == {"joy"}
    assert {episode.behaviour for episode in episodes} == {"fixed:joy"}


def test_an_arm_that_names_its_emotions_has_them_in_its_turns_and_not_in_its_words(make):
    def names(dialogue, prompt, seed):
        emotion = VOCABULARY.labels[seed % 28]
        assert all(said.split(":")[0] in VOCABULARY.labels for _, said in dialogue.exchanges)
        return with_name(emotion, obedient(dialogue, prompt, seed))

    (episodes,) = (one.episodes for one in make(spoken_by(names)).play(arms("self_selected+sft")))
    turns = [turn for episode in episodes for turn in episode.focal_turns]
    assert len({turn.emotion for turn in turns}) > 5 and all(turn.emotion in VOCABULARY for turn in turns)
    assert not any(turn.text.split(":")[0] in VOCABULARY.labels or turn.role_violations for turn in turns)
    assert {episode.behaviour for episode in episodes} == {"self_selected"}


def test_who_cannot_name_an_emotion_is_not_asked_to():
    (selecting, prompted) = arms("self_selected+base", "iql+jpo_joint")
    backend = ChatSpeaker(ScriptedBackend(obedient), VOCABULARY)
    assert speaker_of(prompted, backend) is backend and speaker_of(selecting, backend).emotions == "self_selected"
    assert speaker_of(selecting, backend).backend is backend.backend
    perceiver = load_perceiver("judge")
    drafting = speaker_of(selecting, backend.drafting(4, perceiver))
    assert (drafting.drafts, drafting.perceiver, drafting.emotions) == (4, perceiver, "self_selected")
    with pytest.raises(UserError, match="no language model that could name an emotion"):
        speaker_of(selecting, PhrasebookSpeaker(VOCABULARY))
    with pytest.raises(UserError, match="chooses its emotions itself; play self_selected.jpo_joint"):
        speaker_of(prompted, backend.naming())


def test_the_counterpartys_part_needs_a_language_model():
    speakers = Speakers({}, "run", None, VOCABULARY, lambda: ScriptedBackend(obedient))
    assert speakers("endpoint", side="counterparty").side == "counterparty"
    with pytest.raises(UserError, match="no lines for the counterparty"):
        speakers("phrasebook", side="counterparty")
    with pytest.raises(UserError, match="run/mine/adapter holds no adapter"):
        speakers("mine")
