"""Planted effects are found, and where nothing was planted nothing is."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode
from torch.utils.tensorboard import SummaryWriter

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.studies.behaviour import Behaviour
from emodistill.studies.contrast import Contrast
from emodistill.studies.exclusions import exclusions
from emodistill.studies.guard import GuardPrice
from emodistill.studies.main_table import ArmsTable
from emodistill.studies.prompting import Prompting, overall_test
from emodistill.studies.safety import Safety
from emodistill.studies.separability import returns_of
from emodistill.studies.tournament import Tournament
from emodistill.studies.training_seeds import _curves
from emodistill.studies.transfer import Transfer


def played(arm, mean, condition="", domain="debt", scenarios=20, seed=0):
    """Episodes with a deal near a utility, the same noise by scenario for every arm."""
    noise = np.random.default_rng(seed).normal(0, 0.05, scenarios)
    own = np.random.default_rng(zlib.crc32(f"{arm}{condition}{domain}".encode())).normal(0, 0.02, scenarios)
    episodes = []
    for i in range(scenarios):
        episode = make_episode(number=i)
        scenario = replace(episode.scenario, domain=domain)
        value = scenario.value_at(float(np.clip(mean + noise[i] + own[i], 0, 1)))
        episodes.append(replace(episode, scenario=scenario, end="deal", deal_value=value))
    return ArmResult(arm, episodes, condition)


def test_a_planted_emotion_is_found():
    own = [played("closing.Own+base", 0.9), played("stubborn.Stubborn", 0.9)]  # no emotions held constant
    found = Prompting()([played("neutral+base", 0.5), played("joy+base", 0.7), played("fixed:anger", 0.5), *own])
    assert [row["emotion"] for row in found.tables[1].rows] == ["joy", "anger"]
    assert found.tables[1].rows[0]["verdict"] == "exceeds" and found.tables[1].rows[0]["p_holm"] < 0.05
    assert found.tables[0].rows[0]["p_value"] < 0.01 and "do not" not in found.verdicts[1]


def test_emotions_that_are_alike_are_within_chance_about_as_often_as_stated():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(60):
        labels = {label: {("debt", str(s), 0): float(rng.normal()) for s in range(10)} for label in "abcd"}
        hits += overall_test(labels, shuffles=200)["p_value"] < 0.05
    assert hits <= 9


def test_planted_transfer():
    table = {("debt", "debt"): 0.8, ("debt", "student"): 0.4, ("student", "student"): 0.8, ("student", "debt"): 0.8}
    found = Transfer()([played("phrasebook_iql", mean, trained, here) for (trained, here), mean in table.items()])
    rows = {(row["trained"], row["domain"]): row for row in found.tables[0].rows}
    assert rows["debt", "student"]["verdict"] == "below" and rows["student", "debt"]["verdict"] == "within noise"
    assert rows["debt", "student"]["share"] == pytest.approx(0.5, abs=0.05) and "in 1 of 2" in found.verdicts[1]


def test_a_planted_condition_differs_and_its_twin_does_not():
    parts = [played("iql", mean, label) for label, mean in (("home", 0.6), ("same", 0.6), ("hard", 0.3))]
    lines = Contrast("home", "t")(parts).verdicts
    assert "same: within noise" in lines[1] and "hard: worse" in lines[2]


def test_with_one_domain_every_comparison_is_tested_once():
    parts = [played("iql", mean, label) for label, mean in (("home", 0.6), ("hard", 0.3))]
    own = [row for row in Contrast("home", "t")(parts).tables[0].rows if row["condition"] == "hard"]
    assert [row["domain"] for row in own] == ["all"] and own[0]["p_holm"] == own[0]["p_value"]
    there = [
        replace(one, episodes=[*one.episodes, *played("iql", 0.5, one.condition, "student").episodes]) for one in parts
    ]
    rows = [row for row in Contrast("home", "t")(there).tables[0].rows if row["condition"] == "hard"]
    assert [row["domain"] for row in rows] == ["debt", "student", "all"]


def test_one_emotion_in_two_voices_is_no_comparison_of_emotions():
    both = [played("neutral+base", 0.5), played("joy+base", 0.7), played("joy+phrasebook", 0.5)]
    (line,) = Prompting()(both).verdicts
    assert line.startswith("'joy+base' and 'joy+phrasebook' both show 'joy' all the time")
    again = [played("neutral+base", 0.5), played("fixed:joy#2", 0.7)]
    assert [row["emotion"] for row in Prompting()(again).tables[1].rows] == ["joy"]


def test_transfer_says_nothing_of_a_domain_whose_own_training_was_not_played():
    found = Transfer()([played("iql", 0.8, "debt", "debt"), played("iql", 0.4, "debt", "student")])
    assert not found.verdicts and [row["domain"] for row in found.tables[0].rows] == ["debt", "student"]


def test_what_is_outside_of_the_correction_has_no_verdict_or_says_so():
    parts = [
        played("iql", 0.6, "home"),
        played("iql", 0.3, "away"),
        played("no", 0.5, "home"),
        played("no", 0.5, "away"),
    ]
    (line,) = [one for one in Contrast("home", "t", floor="no")(parts).verdicts if "its lead over no" in one]
    assert line.startswith("iql, away: worse") and line.endswith("].")  # an interval, and no word after it
    places = [(trained, domain) for trained in ("debt", "student") for domain in ("debt", "student")]
    cells = [played(arm, 0.5, *place) for place in places for arm in ("iql", "no")]
    rule, verdict = Transfer(floor="no")(cells).verdicts
    assert rule.endswith("this count is by intervals alone, without Holm's correction.") and "exceeds no in" in verdict


def test_a_planted_winner_of_the_tournament():
    strength = {"strong": 0.3, "middle": 0.0, "weak": -0.3}
    parts = [played(a, 0.5 + x - y, b) for a, x in strength.items() for b, y in strength.items()]
    found = Tournament()(parts)
    assert [row["arm"] for row in found.tables[0].rows] == ["strong", "middle", "weak"]
    assert "clearly above middle, weak" in found.verdicts[1]


def test_returns_are_discounted_within_an_episode():
    found = returns_of(np.array([1.0, 2.0, 4.0, 1.0]), np.array([0, 0, 1, 1]), 0.5)
    assert found.tolist() == [3.0, 4.0, 4.0, 1.0]


def counts(rows):
    """What the rows of an analysis count, and what their standard errors come to."""
    keys = ("episodes", "turns", "meetings", "standard_error", "flagged", "read", "deals")
    return [[row.get(key) for key in keys] for row in rows]


@pytest.mark.parametrize(
    "analysis",
    [
        Safety(),
        GuardPrice(),
        Behaviour(load_vocabulary("goemotions28")),
        Tournament(),
        ArmsTable(load_vocabulary("goemotions28")),
    ],
    ids=lambda analysis: type(analysis).__name__,
)
def test_episodes_that_training_seeds_share_are_counted_once(analysis):
    episodes = {name: [make_episode(number=i, seed=i) for i in range(4)] for name in ("untrained", "other")}
    once = [ArmResult(arm, own, "strict") for arm, own in episodes.items()]
    often = [replace(one, training_seed=seed) for seed in range(3) for one in once]
    for first, second in zip(analysis(once).tables, analysis(often).tables, strict=True):
        assert counts(first.rows) == counts(second.rows)
    other = [ArmResult("untrained", [make_episode(number=9)], "strict", training_seed=5)]
    assert counts(analysis([*once, *other]).tables[0].rows) != counts(analysis(once).tables[0].rows)


def test_what_was_left_out_of_shared_episodes_comes_once():
    spoilt = [make_episode(), make_episode(number=1, end="invalid")]
    found = exclusions([ArmResult("untrained", spoilt, training_seed=seed) for seed in range(3)])
    assert len(found.rows) == 1 and found.note == "1 of 2 episodes are left out."


def test_a_stage_that_conditions_share_has_its_curve_once(tmp_path):
    with SummaryWriter(str(tmp_path / "run" / "iql" / "tensorboard")) as writer:
        writer.add_scalar("val/loss", 1.0, 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "iql").symlink_to(tmp_path / "run" / "iql", target_is_directory=True)
    parts = [replace(played("iql", 0.5, name), run_dir=str(tmp_path / name)) for name in ("run", "other")]
    (curve,) = _curves(parts, ["val/loss"])
    assert curve.panel == "iql (run): val/loss" and curve.values == [1.0]
