"""`make peers` gives both sides the same work and counts it alike; what it takes is not tested."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from schedules import concession_schedule
from tiny_model import build_tokenizer

from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.data.chats import ChatEncoder, collate_encoded
from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.agents import FocalAgent, UniformEmotion
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import Negotiation
from emodistill.policy.chat_format import ChatFormat
from emodistill.runs import check_earlier_stages

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))

import compare
import ours
from training_throughput import Meter


@pytest.fixture(scope="module")
def episodes():
    vocabulary = load_vocabulary("goemotions28")
    focal = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), PhrasebookSpeaker(vocabulary))
    counterparty = BehaviouralCounterparty(load_perceiver("counterparty"), ["vanilla", "stoic"])
    scenarios = [s for domain in ("debt", "student") for s in generate_scenarios(domain, 6)]
    played = play([Negotiation(scenario, seed) for scenario in scenarios for seed in (0, 1)], focal, counterparty)
    return [Episode.of(negotiation, "train", "uniform", "random") for negotiation in played]


@pytest.fixture(scope="module")
def encode():
    return ChatEncoder(ChatFormat(build_tokenizer(), load_vocabulary("goemotions28")), max_tokens=100_000)


def test_both_sides_learn_the_same_replies_after_the_same_words(episodes, encode):
    tokenizer = encode.chat_format.tokenizer
    rows = ours.examples(episodes, encode)
    chats = [encode.encode(episode, [True] * len(episode.focal_turns)) for episode in episodes]
    assert len(rows) == sum(len(episode.focal_turns) for episode in episodes)
    place = 0
    for chat in chats:
        for turn in range(len(chat.turns)):
            prompt, reply = (tokenizer.encode(rows[place][key], add_special_tokens=False) for key in rows[place])
            first = chat.utterance.index(turn)
            assert prompt == chat.input_ids[:first]
            assert reply == [t for t, owner in zip(chat.input_ids, chat.utterance, strict=True) if owner == turn]
            place += 1


def test_ours_counts_as_many_turns_as_theirs_has_examples(episodes, encode, capsys, monkeypatch):
    chats = [encode.encode(episode, [True] * len(episode.focal_turns)) for episode in episodes[:4]]
    batch = collate_encoded(chats, pad_id=0)
    trainer, learner = SimpleNamespace(accumulate_grad_batches=1), SimpleNamespace()
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n"))
    meter = Meter()
    meter.on_train_batch_start(trainer, learner, batch, 0)
    meter.on_train_batch_end(trainer, learner, None, batch, 0)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == {"ready": "step"}
    assert told[1]["turns"] == len(ours.examples(episodes[:4], encode))
    assert told[1]["tokens"] == sum(len(chat.input_ids) for chat in chats)


def test_both_sides_speak_in_the_same_contexts_of_each_episode(episodes, encode):
    tokenizer = encode.chat_format.tokenizer
    rows = iter(ours.prompts(episodes, encode, turns=2, reserve=48))
    for episode in episodes:
        for turn in sorted({0, len(episode.focal_turns) - 1}):
            (context,) = encode.contexts(episode, [i == turn for i in range(len(episode.focal_turns))], reserve=48)
            assert tokenizer.encode(next(rows)["prompt"], add_special_tokens=False) == context.input_ids
    assert next(rows, None) is None


@pytest.mark.parametrize("stage", ["iql", "sft", "jpo"])
def test_our_side_needs_no_trained_stage_and_takes_every_turn(tmp_path, stage):
    config = OmegaConf.to_container(ours.configuration(stage, tmp_path), resolve=True)
    check_earlier_stages(config)
    if stage != "iql":
        assert config["data"]["corpus"]["path"] == str(tmp_path / "episodes.parquet")
        assert config["data"]["dataset"]["selection"] == {"_target_": "emodistill.data.selection.AllTurns"}


def test_the_first_episode_of_each_domain_with_so_many_turns_is_taken(episodes):
    turns = len(episodes[0].focal_turns)
    found = ours.of_each_domain(episodes, turns)
    assert found[0] is episodes[0]
    assert {len(episode.focal_turns) for episode in found} == {turns}
    domains = [episode.scenario.domain for episode in found]
    assert len(set(domains)) == len(domains)


SPEAKER = """
import json, sys
print("a library says hello")
print(json.dumps({"about": "this side"}), flush=True)
for seconds in (9.0, 1.0, 3.0):
    print(json.dumps({"ready": "step"}), flush=True)
    sys.stdin.readline()
    print({"loss": 1.0})
    print(json.dumps({"seconds": seconds, "cpu_seconds": 2 * seconds, "turns": 4}), flush=True)
"""


def test_the_first_step_is_not_counted_and_what_libraries_print_is_skipped(tmp_path):
    one, two = (compare.Side([sys.executable, "-c", SPEAKER], tmp_path / f"{name}.log") for name in "ab")
    with one, two:
        assert one.told() == two.told() == {"about": "this side"}
        compare.in_turn([one, two], seconds=0)
        assert [len(side.steps) for side in (one, two)] == [2, 2]
        assert one.rate("turns") == 4.0 and one.rate("turns", "cpu_seconds") == 2.0
        one.step()
        two.step()
        assert one.rate("turns") == 2.0 and compare.ratios(one, two, "turns") == [1.0, 1.0]
        with pytest.raises(SystemExit, match="ended early"):
            one.step()


def test_their_environment_has_the_versions_that_ours_was_tested_with():
    root = Path(__file__).parents[2]
    locked = dict(line.split("==") for line in (root / "requirements.lock").read_text().splitlines() if "==" in line)
    pinned = dict(
        line.split("==")
        for line in (root / "benchmarks/peers/requirements.txt").read_text().splitlines()
        if "==" in line
    )
    assert {"trl", "torchrl", "d3rlpy"} <= set(pinned)
    shared = {"torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "numpy"}
    assert {name: pinned[name] for name in shared} == {name: locked[name] for name in shared}
