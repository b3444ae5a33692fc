"""Arms that share a model play together: the same episodes as alone, and the same bytes after a stop."""

import pytest
from schedules import concession_schedule
from scripted_backends import ScriptedBackend, obedient
from tiny_model import build_tiny_model

from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation import runner as runners
from emodistill.evaluation.arms import parse_arms
from emodistill.evaluation.runner import Runner
from emodistill.language_models.local import load_model, load_tokenizer
from emodistill.negotiation.agents import Fault, FixedEmotion
from emodistill.negotiation.generator import generate_scenarios
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import LocalChatBackend
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.generation import ChatGenerator

VOCABULARY = load_vocabulary()
ARMS = parse_arms(["vanilla", "random", "random#2", "iql", "self_selected+base", "fixed:anger"], VOCABULARY)


@pytest.fixture(scope="module")
def perceiver():
    return load_perceiver("counterparty")


@pytest.fixture
def make(tmp_path, perceiver):
    def runner(backend, folder="run"):
        joy = lambda: FixedEmotion(VOCABULARY, "joy")  # noqa: E731  # stands for the trained selector
        speaker = lambda generator: ChatSpeaker(backend, VOCABULARY)  # noqa: E731
        sides = (BehaviouralCounterparty(perceiver, ["vanilla", "charmer"]), concession_schedule())
        return Runner(generate_scenarios("debt", 10)[:2], 2, *sides, speaker, joy, VOCABULARY, tmp_path / folder)

    return runner


def by_the_batch(sizes):
    """Words that depend on how many dialogues are spoken at once, as rounding does: so that its trace can be seen."""

    class Backend(ScriptedBackend):
        def reply(self, dialogues, prompts, seeds):
            sizes.append(len(dialogues))
            return [f"{words} Lot {len(dialogues)}." for words in super().reply(dialogues, prompts, seeds)]

    return Backend(obedient)


def files(runner):
    return {path.name: path.read_bytes() for path in sorted((runner.folder / "episodes").glob("*.parquet"))}


def test_arms_of_one_model_speak_in_one_call_and_those_that_name_emotions_apart(make):
    sizes = []
    make(by_the_batch(sizes)).play(ARMS)
    assert max(sizes) == sizes[0] == 5 * 4  # all but self_selected; four episodes each
    small = []
    make(by_the_batch(small), "endpoint").play(parse_arms(["endpoint_vanilla", "endpoint_random"], VOCABULARY))
    assert max(small) == 4  # an endpoint is asked for many at once anyway, and bills each arm


def test_a_real_model_says_the_same_to_arms_together_as_to_each_alone(make, tmp_path, monkeypatch):
    folder = build_tiny_model(tmp_path / "model")
    model, tokenizer = load_model(folder, "float32"), load_tokenizer(folder)
    chat = ChatFormat(tokenizer, VOCABULARY)

    def play(where):
        generator = ChatGenerator(model, tokenizer, 0.8, 20, 12, max_batch=8, stop_ids=chat.end_of_turn[:1])
        runner = make(LocalChatBackend(generator, chat), where)
        played = runner.play(ARMS[:4])
        return files(runner), played, generator

    together, played, generator = play("together")
    monkeypatch.setattr(runners, "TOGETHER", 1)
    alone, one_by_one, _ = play("alone")
    assert together == alone and len(alone) == 4
    assert sum(one.cost.generated_tokens for one in played) == pytest.approx(generator.written, abs=4)
    assert all(one.cost.generated_tokens > 0 for one in one_by_one)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_stop_between_two_files_ends_in_the_same_bytes(make, monkeypatch, written):
    whole = make(by_the_batch([]), "whole")
    whole.play(ARMS)
    stopped, write = make(by_the_batch([]), "stopped"), runners.write_rows

    def power_cut(rows, path):
        if len(files(stopped)) == written:
            raise KeyboardInterrupt
        write(rows, path)

    monkeypatch.setattr(runners, "write_rows", power_cut)
    with pytest.raises(KeyboardInterrupt):
        stopped.play(ARMS)
    monkeypatch.setattr(runners, "write_rows", write)
    assert len(files(stopped)) == written
    stopped.play(ARMS)
    assert files(stopped) == files(whole) and len(files(whole)) == 6
    assert not (stopped.folder / "episodes" / "together.json").exists()


def test_what_is_half_played_of_other_arms_stays(make, monkeypatch):
    whole, sizes = make(by_the_batch([]), "whole"), []
    whole.play(ARMS)
    stopped, write = make(by_the_batch(sizes), "stopped"), runners.write_rows

    def power_cut(rows, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(runners, "write_rows", power_cut)  # all is played, and no file put together
    with pytest.raises(KeyboardInterrupt):
        stopped.play(ARMS)
    monkeypatch.setattr(runners, "write_rows", write)
    stopped.play(parse_arms(["fixed:anger"], VOCABULARY))
    stopped.play(parse_arms(["fixed:anger"], VOCABULARY))
    sizes.clear()
    stopped.play(ARMS)
    assert not sizes and not (stopped.folder / "parts").exists()
    alone = "fixed-anger.parquet"  # whose words tell how many were spoken at once
    assert {**files(stopped), alone: b""} == {**files(whole), alone: b""}


def test_an_arm_that_cannot_be_played_does_not_cost_the_others_their_episodes(make):
    def mute_when_angry(dialogue, prompt, seed):
        return Fault("mute") if VOCABULARY.directive("anger") in prompt else obedient(dialogue, prompt, seed)

    runner = make(ScriptedBackend(mute_when_angry))
    with pytest.raises(UserError, match="no episode of the arm 'fixed:anger' could be played .mute"):
        runner.play(parse_arms(["vanilla", "fixed:anger", "random"], VOCABULARY))
    assert set(files(runner)) == {"vanilla.parquet", "random.parquet"}


def test_many_episodes_are_played_in_lots(make, monkeypatch):
    monkeypatch.setattr(runners, "TOGETHER", 8)
    sizes = []
    make(by_the_batch(sizes)).play(ARMS[:4])
    assert max(sizes) == 8
