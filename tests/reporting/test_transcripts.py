from dataclasses import replace

import pytest
from episodes import make_episode
from reporting_cases import hostile_episode, some_played

from emodistill.data.observations import DialoguePrefix, Observer
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.learners.iql import IQLLearner
from emodistill.learners.selector import load_selector
from emodistill.reporting.page import choose_pair, transcripts
from emodistill.safety.detector import detect

PERCEIVER, WORDS = load_perceiver("counterparty"), load_vocabulary()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A selector with random weights that has never seen grief, and a reward scale of 2."""
    import lightning as L
    import torch

    torch.manual_seed(0)
    width = Observer(WORDS, load_perceiver("judge")).dim
    facts = {
        "observation_mean": [0.0] * width,
        "observation_std": [1.0] * width,
        "reward_scale": 2.0,
        "action_mask": [label != "grief" for label in WORDS.labels],
        "labels": list(WORDS.labels),
        "vocabulary": WORDS.name,
        "fingerprint": WORDS.fingerprint,
        "observation": "full",
    }
    rates = {"q": 1e-3, "v": 1e-3, "policy": 1e-3}
    learner = IQLLearner(width, len(WORDS), [4], 0.9, 0.7, 3.0, 100.0, 0.01, rates, facts)
    trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    trainer.strategy.connect(learner)
    path = tmp_path_factory.mktemp("run") / "iql" / "best.ckpt"
    path.parent.mkdir()
    trainer.save_checkpoint(path)
    return path


def test_every_episode_and_turn_is_there_with_its_words():
    played = some_played()
    found = transcripts(played, PERCEIVER, WORDS)
    assert [p["arm"] for p in found["players"]] == [item.arm for item in played]
    assert len(found["episodes"]) == 18 and len(found["scenarios"]) == 3
    for item, first in zip(range(3), range(0, 18, 6), strict=True):
        for episode, entry in zip(played[item].episodes, found["episodes"][first : first + 6], strict=True):
            assert entry["p"] == item and found["scenarios"][entry["s"]]["id"] == episode.scenario.id
            assert [turn["t"] for turn in entry["turns"]] == [turn.text for turn in episode.turns]
            assert (entry["seed"], entry["u"], entry["who"]) == (
                episode.seed,
                round(episode.utility, 4),
                episode.counterparty,
            )


def test_a_turn_says_what_it_did():
    first, second = transcripts([ArmResult("evil", [hostile_episode()])], PERCEIVER, WORDS)["episodes"][0]["turns"]
    assert (first["f"], first["e"], first["o"], first["x"], first["added"]) == (1, "joy", "30 days", 0.8592, 1)
    assert first["role_violations"] == ["speaks for the other"] and "act" not in first
    assert (second["f"], second["act"]) == (0, "accept") and not {"e", "o", "x", "q", "role_violations", "added"} & set(
        second
    )


def test_a_scenario_shows_its_facts_and_who_sees_them():
    scenario = transcripts([ArmResult("a", [make_episode()])], PERCEIVER, WORDS)["scenarios"][0]
    assert scenario["targets"] == ["20 days", "91 days"]
    assert ["Cash flow", "Tight until the harvest", "counterparty"] in scenario["facts"]
    assert not any("91" in value for _, value, _ in scenario["facts"])  # a target column is no fact of the case


def test_what_a_reader_sees_is_the_perceivers_reading():
    turn = transcripts([ArmResult("a", [make_episode()])], PERCEIVER, WORDS)["episodes"][0]["turns"][0]
    shares = dict(zip(WORDS.labels, PERCEIVER.probabilities([turn["t"]])[0], strict=True))
    best = sorted(shares, key=shares.get, reverse=True)[: len(turn["p"])]
    assert [label for label, _ in turn["p"]] == best and 1 <= len(best) <= 3
    assert turn["p"][0][1] == round(100 * float(shares[best[0]]))


def test_flags_have_their_places():
    threat = "Pay now or I will ruin you."
    turn = make_episode().turns[0].__class__(1, "focal", threat, "propose", 30.0)
    episode = hostile_episode().__class__(**{**vars(hostile_episode()), "turns": (turn,)})
    found = transcripts([ArmResult("a", [episode])], PERCEIVER, WORDS, detect=detect)["episodes"][0]["turns"][0]
    matches = detect([threat])[0].matches
    assert matches and found["flags"] == [[m.kind, m.start, m.end] for m in matches]
    assert "flags" not in transcripts([ArmResult("a", [episode])], PERCEIVER, WORDS)["episodes"][0]["turns"][0]


def test_q_values_are_those_of_the_selector_at_that_turn(checkpoint):
    import torch

    episode = make_episode()
    entry = transcripts([ArmResult("a", [episode])], PERCEIVER, WORDS, checkpoint)["episodes"][0]
    selector = load_selector(str(checkpoint), WORDS)
    for i, turn in enumerate(entry["turns"]):
        if not turn["f"]:
            assert "q" not in turn
            continue
        observation = torch.from_numpy(selector.observer([DialoguePrefix(episode.scenario, episode.turns[:i])]))
        expected = 2.0 * selector.learner.q_values(observation)[0]
        for label, thousandths, value in zip(WORDS.labels, turn["q"], expected.tolist(), strict=True):
            assert thousandths is None if label == "grief" else thousandths == pytest.approx(1000 * value, abs=0.51)


def test_a_runs_own_selector_comes_first(checkpoint, tmp_path):
    own = ArmResult("a", [make_episode()], run_dir=str(checkpoint.parent.parent))
    none = ArmResult("b", [make_episode()], run_dir=str(tmp_path))
    with_own, without = transcripts([own, none], PERCEIVER, WORDS)["episodes"]
    assert "q" in with_own["turns"][0] and "q" not in without["turns"][0]


def dealt(utility, number=0, end="deal"):
    """An episode that ends with this utility."""
    episode = make_episode(1, number)
    deal = 20.0 + (1 - utility) * 71.0 if end == "deal" else None
    return replace(episode, end=end, deal_value=deal)


def arm(name, *utilities, **about):
    return ArmResult(name, [dealt(u, number) for number, u in enumerate(utilities)], **about)


def test_the_pair_is_the_subject_and_its_strongest_rival_at_the_median_difference():
    results = [arm("weak", 0.1, 0.1, 0.1), arm("subject", 0.5, 0.9, 0.2), arm("strong", 0.4, 0.6, 0.9)]
    pair = choose_pair(results, "subject")
    assert (pair.first, pair.rival) == (1, 2)
    assert [scenario for _, scenario, _ in pair.keys] == ["debt-002", "debt-000", "debt-001"]
    assert pair.differences == pytest.approx([-0.7, 0.1, 0.3]) and pair.middle == 1
    assert choose_pair(results).first == 2  # without a subject, the strongest arm


def test_a_rival_of_the_same_condition_and_training_seed_goes_before_a_stronger_one():
    results = [
        arm("subject", 0.5, condition="home", training_seed=1),
        arm("near", 0.1, condition="home", training_seed=1),
        arm("other seed", 0.6, condition="home", training_seed=2),
        arm("elsewhere", 0.9, condition="away", training_seed=1),
    ]
    assert [choose_pair(results[:1] + results[i:], "subject").rival + i - 1 for i in (1, 2, 3)] == [1, 2, 3]


def test_the_subject_may_be_named_with_its_condition_as_in_the_tables():
    results = [arm("a", 0.5, condition="home"), arm("b", 0.1, condition="home"), arm("b", 0.2, condition="away")]
    assert choose_pair(results, "b, away").first == 2


def test_there_is_no_pair_without_an_episode_that_two_arms_have_ended():
    invalid = ArmResult("b", [dealt(0.5, end="invalid")])
    assert choose_pair([arm("a", 0.5)], "a") is None and choose_pair([arm("a", 0.5), invalid], "a") is None
    assert choose_pair([], "a") is None and choose_pair([arm("b", 0.5)], "a") is None
