"""Speakers of arms whose model is elsewhere, and an arm that nobody could play."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from schedules import concession_schedule
from scripted_backends import ScriptedBackend, ScriptedCompleter

from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import parse_arms
from emodistill.evaluation.runner import Runner
from emodistill.evaluation.speakers import Speakers
from emodistill.negotiation.agents import Fault, FixedEmotion
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.policy.chat_backends import EndpointModel

VOCABULARY = load_vocabulary()


def speakers(completer):
    source = EndpointModel(completer, "large")
    return Speakers({}, "run", None, VOCABULARY, source.open)


@pytest.fixture
def make(tmp_path):
    def runner(speaker):
        counterparty = BehaviouralCounterparty(load_perceiver("counterparty"), ["vanilla"])
        joy = lambda: FixedEmotion(VOCABULARY, "joy")  # noqa: E731  # stands for the trained selector
        scenarios = generate_scenarios("debt", 10)[:2]
        return Runner(scenarios, 2, counterparty, concession_schedule(), speaker, joy, VOCABULARY, tmp_path)

    return runner


def test_a_model_behind_an_endpoint_plays_the_arms_that_ask_for_it(make):
    completer = ScriptedCompleter(lambda request: "We insist.")
    played = make(speakers(completer)).play(parse_arms(["endpoint_vanilla", "endpoint_iql"], VOCABULARY))
    asked = [request.messages[-1].content for request in completer.requests]
    joy = VOCABULARY.directive("joy")
    half = sum(len(episode.focal_turns) for episode in played[0].episodes)
    assert not any(joy in words for words in asked[:half]) and all(joy in words for words in asked[half:])
    for arm, episodes in ((one.arm, one.episodes) for one in played):
        assert {episode.focal_agent for episode in episodes} == {arm} and {e.end for e in episodes} != {"invalid"}
        assert all(turn.offer is not None or turn.act == "accept" for e in episodes for turn in e.focal_turns)


def test_without_an_endpoint_the_arms_are_refused():
    with pytest.raises(UserError, match="endpoint_"):
        Speakers({}, "run", None, VOCABULARY)("endpoint")
    assert isinstance(Speakers({}, "run", None, VOCABULARY)("phrasebook"), PhrasebookSpeaker)


def test_a_fault_is_invalid_and_an_arm_of_nothing_else_is_not_kept(make, tmp_path):
    failing = ScriptedCompleter(lambda request: ("timeout", "too slow"))
    runner = make(speakers(failing))
    with pytest.raises(UserError, match="no episode of the arm 'endpoint_vanilla' could be played .large: timeout"):
        runner.play(parse_arms(["endpoint_vanilla"], VOCABULARY))
    assert not (tmp_path / "episodes").exists()
    some = ScriptedCompleter(lambda request: ("timeout", "too slow") if request.seed % 5 == 0 else "We insist.")
    (played,) = make(speakers(some)).play(parse_arms(["endpoint_vanilla"], VOCABULARY))
    assert 0 < sum(episode.end == "invalid" for episode in played.episodes) < 4


def test_a_backend_may_fail_for_one_negotiation_alone():
    backend = ScriptedBackend(lambda dialogue, prompt, seed: Fault("line dead"))
    assert Speakers({}, "run", None, VOCABULARY, lambda: backend)("endpoint").backend is backend


WORKER = """
import sys
from hydra import compose, initialize_config_dir
from commands.building import build_runner
from emodistill.emotions.vocabulary import load_vocabulary

place, configs = sys.argv[1:]
words = [f"run_dir={place}", "study=prompting", "arms=[none+phrasebook,joy+phrasebook]", "scenarios_per_domain=1"]
with initialize_config_dir(configs, version_base="1.3"):
    cfg = compose("evaluate", overrides=[*words, f"data.corpus.folder={place}"])
runner, _ = build_runner(cfg, load_vocabulary(cfg.vocabulary))
runner.speaker("phrasebook")
print(sorted({"torch", "transformers", "sklearn", "pyarrow"}.intersection(sys.modules)))
"""


def test_a_process_that_plays_the_phrasebook_imports_no_library_of_language_models(tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(root / "configs")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert ran.stdout == "[]\n", ran.stderr
