"""The main table: its tables and sentences, equal arms and a planted winner, exclusions and training seeds."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode
from test_main_values import Blank, arm

from benchmarks.interval_coverage import utility
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import FEW, paired_difference, utilities
from emodistill.studies.exclusions import exclusions
from emodistill.studies.main_table import (
    ArmsTable,
    by_arm,
    main_values,
    result_of,
    verdict_rule,
    verdicts,
)
from emodistill.studies.training_seeds import Stability

WORDS = (Blank(), load_vocabulary())


def drawn(rng, failing, scenarios=12, seeds=2):
    """Simulated episodes of one arm: utilities with a point mass at 0."""
    values = np.clip(utility(failing)(rng, scenarios, seeds), 0, 1)
    return [
        replace(make_episode(1, number, seed), end="deal", deal_value=91.0 - 71.0 * float(value))
        for number, row in enumerate(values)
        for seed, value in enumerate(row)
    ]


def analyse_main(played, perceiver, vocabulary, **options):
    return result_of(main_values(played, perceiver, vocabulary, **options), played, **options)


def tables(found):
    return {table.name: table for table in found.tables}


def test_an_arm_against_itself_is_seldom_told_apart():
    runs, told = 200, 0
    rng = np.random.default_rng(0)
    for seed in range(runs):
        found = paired_difference(utilities(drawn(rng, 0.3)), utilities(drawn(rng, 0.3)), seed, resamples=1000)
        row = {"against": "vanilla#2", "domain": "debt", "verdict": found.verdict}
        told += verdicts([row], ["debt"], ["vanilla#2"])["debt"] != "within noise"
    assert told / runs <= 0.06 + 3 * math.sqrt(0.06 * 0.94 / runs)


def test_a_planted_winner_is_found_and_turned_round_it_loses():
    rng = np.random.default_rng(1)
    played = [ArmResult("vanilla#2", drawn(rng, 0.7)), ArmResult("vanilla", drawn(rng, 0.02))]
    found = analyse_main(played, *WORDS, subject="vanilla", rivals=("vanilla#2",))
    rule, line = found.verdicts
    assert verdict_rule("vanilla", ["vanilla#2"]) in rule
    assert line == "debt: vanilla exceeds vanilla#2."
    lost = analyse_main(played, *WORDS, subject="vanilla#2", rivals=("vanilla",)).verdicts[1]
    assert lost.startswith("debt: vanilla#2 is below vanilla")


def test_an_interval_above_0_is_no_verdict_where_p_is_not_below_alpha_after_the_correction():
    better = [0.36, 0.29, 0.35, 0.33, 0.28, 0.36, 0.34, 0.32, 0.29, 0.37, 0.33, 0.31]
    shifted = [ArmResult("vanilla", arm([0.3] * 12)), ArmResult("iql", arm(better))]
    alone = analyse_main(shifted, *WORDS, subject="iql", rivals=("vanilla",))
    decided = tables(alone)["comparisons"].rows[0]
    assert decided["low"] > 0 and decided["p_holm"] < 0.05 and decided["verdict"] == "exceeds"
    others = [ArmResult(f"fixed:{name}", arm(better[::-1])) for name in ("joy", "anger", "fear", "grief", "love")]
    crowd = analyse_main([*others, *shifted], *WORDS, subject="iql", rivals=("vanilla",))
    undecided = next(row for row in tables(crowd)["comparisons"].rows if row["against"] == "vanilla")
    assert undecided["low"] > 0 and undecided["p_holm"] > 0.05 and undecided["verdict"] == "within noise"
    assert crowd.verdicts[1].startswith("debt: iql is within noise of vanilla")


def test_all_domains_together_have_a_verdict_of_their_own():
    def twice(values):
        here = arm(values)
        return [*here, *(replace(e, scenario=replace(e.scenario, domain="student")) for e in here)]

    played = [ArmResult("vanilla", twice([0.3, 0.31] * 5)), ArmResult("iql", twice([0.5, 0.51] * 5))]
    lines = analyse_main(played, *WORDS, subject="iql", rivals=("vanilla",)).verdicts
    assert [line.split(":")[0] for line in lines[1:]] == ["debt", "student", "all domains together"]


def test_a_verdict_says_what_the_subject_is_to_each_rival():
    means = {"iql": 0.5, "vanilla": 0.2, "table": 0.21, "sft": 0.5, "emodistill": 0.8}
    played = [ArmResult(name, arm([mean + 0.01 * (i % 3) for i in range(12)])) for name, mean in means.items()]
    rivals = ("vanilla", "table", "sft", "emodistill")
    line = analyse_main(played, *WORDS, subject="iql", rivals=rivals).verdicts[1]
    assert line == "debt: below: iql exceeds vanilla and table, is within noise of sft and is below emodistill."
    lost = analyse_main(played, *WORDS, subject="vanilla", rivals=("iql", "sft")).verdicts[1]
    assert lost == "debt: vanilla is below iql and sft."


def test_the_rule_in_words():
    assert "both intervals above 0" in verdict_rule() and "vanilla and above iql" in verdict_rule()
    assert "every interval above 0" in verdict_rule("a", "bcd") and "the interval above 0" in verdict_rule("a", "b")


def test_few_scenarios_are_said():
    few = [ArmResult(name, arm([value, value + 0.01, value])) for name, value in (("iql", 0.3), ("vanilla", 0.5))]
    found = analyse_main(few, *WORDS, subject="vanilla", rivals=("iql",))
    assert f"(3 scenarios: fewer than the {FEW}" in found.verdicts[1]
    assert "is within noise" in found.verdicts[1]  # three scenarios: p is .25 at the least
    assert "may hold only" in tables(found)["comparisons"].note
    many = [ArmResult(one.arm, list(one.episodes) + arm([0.4] * 9)[3:]) for one in few]
    assert "fewer than" not in analyse_main(many, *WORDS, subject="vanilla", rivals=("iql",)).verdicts[1]


def test_rows_hold_raw_numbers_and_plain_json():
    played = [ArmResult("vanilla", arm([0.2] * 9 + [None])), ArmResult("emodistill", arm([0.5] * 10))]
    found = analyse_main(played, *WORDS)
    assert found.verdicts == []  # iql was not played
    given = tables(found)
    row = next(row for row in given["arms"].rows if row["arm"] == "vanilla")
    assert (row["domain"], row["episodes"], row["invalid"], row["scenarios"]) == ("debt", 10, 1, 9)
    assert row["low"] < row["utility"] < row["high"] and row["utility_interval"] == [
        row["utility"],
        row["low"],
        row["high"],
    ]
    (versus,) = (row for row in given["comparisons"].rows if row["domain"] == "debt")
    assert versus["difference"] == pytest.approx(0.3) and versus["pairs"] == 9
    assert versus["difference_interval"] == [versus["difference"], versus["low"], versus["high"]]
    assert "1 test: emodistill against vanilla, each in debt. " in given["comparisons"].note
    for table in found.tables:
        json.dumps(list(table.rows), allow_nan=False)
        assert all(len(cells) == len(table.columns) for cells in table.cells())


def test_all_domains_together_are_rows_of_their_own():
    elsewhere = [replace(e, scenario=replace(e.scenario, domain="student", id="s")) for e in arm([0.4, 0.6])]
    report = main_values([ArmResult("iql", arm([0.2, 0.4]) + elsewhere)], *WORDS)
    (row,) = report["overall"]
    assert row["domain"] == "all" and row["episodes"] == 4 and row["scenarios"] == 3
    assert [row["domain"] for row in result_of(report, []).tables[0].rows] == ["debt", "student", "all"]
    assert main_values([ArmResult("iql", arm([0.2]))], *WORDS)["overall"] == []


def test_exclusions_give_every_reason():
    played = [ArmResult("iql", arm([0.2, None, 0.4])), ArmResult("vanilla", arm([0.2, 0.3]), training_seed=1)]
    table = exclusions(played)
    found = [(row["arm"], row["training_seed"], row["scenario"], row["why"]) for row in table.rows]
    assert found[0] == ("iql", 0, "debt-001", "invalid: timeout")
    assert found[1][:3] == ("vanilla", 1, "debt-002") and "not played" in found[1][3]
    assert len(found) == 2 and table.note.startswith("2 of 6")
    assert exclusions([ArmResult("iql", arm([0.2]))]).note == "Nothing was left out."
    assert "condition" in [column.key for column in exclusions([ArmResult("iql", [], "x")]).columns]


def test_training_seeds_are_shown_apart():
    played = [ArmResult("emodistill", arm([0.1 * i + 0.1 * seed for i in range(5)]), "", seed) for seed in range(3)]
    given = tables(analyse_main([*played, ArmResult("vanilla", arm([0.2] * 5))], *WORDS))
    assert [row["training_seed"] for row in given["seeds"].rows] == [0, 1, 2]
    (row,) = given["variance"].rows
    assert (row["arm"], row["seeds"], row["scenarios"]) == ("emodistill", 3, 5)
    assert row["between_seeds"] == pytest.approx(0.1) and row["rest"] == pytest.approx(0, abs=1e-6)
    assert {row["pairs"] for row in given["comparisons"].rows} == {5}  # pairs of seed means, not 15
    assert "seeds" not in tables(analyse_main(played[:1], *WORDS))


def test_a_difference_is_shown_with_each_training_seed_and_over_all_of_them():
    """The lead is .3, .1 and .2 with the three seeds and the same in every scenario: its spread is that of training."""
    hard = [0.02 * i for i in range(6)]
    played = [
        ArmResult(name, arm([*(utility + lead for utility in hard), *unpaired]), "", seed)
        for seed, gap in ((2, 0.2), (0, 0.3), (1, 0.1))
        for name, lead, unpaired in (("emodistill", 0.2 + gap, [0.9]), ("emotion_free", 0.2, [None]))
    ]
    given = tables(analyse_main(played, *WORDS))
    (row,) = given["seed_differences"].rows
    assert (row["arm"], row["against"], row["each"]) == ("emodistill", "emotion_free", "+0.300, +0.100, +0.200")
    assert row["between_seeds"] == pytest.approx(0.1) and row["between_scenarios"] == pytest.approx(0, abs=1e-6)
    low, high = 0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5  # t with two degrees of freedom
    assert row["mean_interval"] == pytest.approx([0.2, low, high], abs=1e-3)
    (compared,) = [row for row in given["comparisons"].rows if row["domain"] == "debt"]
    assert compared["difference_interval"][1] > 0  # about these three training runs, all scenarios alike
    assert "these trained weights" in given["comparisons"].note


def test_differences_over_training_seeds_are_told_domain_by_domain():
    """The lead is .2 in debt with every seed, and 0 in student."""

    def played(lead):
        debt, other = (arm([first + 0.02 * i for i in range(6)]) for first in (0.3 + lead, 0.5))
        return [*debt, *(replace(one, scenario=replace(one.scenario, domain="student")) for one in other)]

    runs = [
        ArmResult(name, played(lead + 0.001 * seed), "", seed)
        for seed in range(3)
        for name, lead in (("emodistill", 0.2), ("vanilla", 0.0))
    ]
    rows = {row["domain"]: row for row in tables(analyse_main(runs, *WORDS))["seed_differences"].rows}
    assert list(rows) == ["all", "debt", "student"]
    assert (rows["debt"]["verdict"], rows["student"]["verdict"]) == ("exceeds", "within noise")
    assert rows["all"]["utility"] == pytest.approx(0.1) and rows["all"]["scenarios"] == 12
    assert rows["debt"]["p_value"] < 0.001 and rows["debt"]["p_holm"] >= rows["debt"]["p_value"]


def test_conditions_are_compared_with_one_of_them_over_training_seeds():
    played = [
        ArmResult("sft", arm([lead + 0.02 * i for i in range(6)]), condition, seed)
        for seed, gap in ((0, 0.3), (1, 0.1))
        for condition, lead in (("all", 0.2), ("few", 0.2 + gap))
    ]
    found = Stability(curves=[], reference="all")(played)
    (row,) = tables(found)["seed_differences"].rows
    assert (row["arm"], row["against"], row["each"]) == ("sft, few", "sft, all", "+0.300, +0.100")
    means = [line for line in found.verdicts if "mean utility" in line]
    assert [line.split(":")[0] for line in means] == ["sft, all", "sft, few"]
    assert all("2 training seeds" in line for line in means)


def test_stability_compares_the_whole_method_or_else_the_last_arm():
    def compared(*arms):
        utilities_of = {"emodistill": 0.5, "vanilla": 0.3, "iql": 0.4}
        runs = [ArmResult(name, arm([utilities_of[name]] * 4), "", seed) for name in arms for seed in (0, 1)]
        rows = tables(Stability(curves=[])(runs))["seed_differences"].rows
        return {(row["arm"], row["against"]) for row in rows}

    assert compared("emodistill", "vanilla", "iql") == {("emodistill", "vanilla"), ("emodistill", "iql")}
    assert compared("vanilla", "iql") == {("iql", "vanilla")}


def test_differences_over_training_seeds_are_drawn_too():
    runs = [
        ArmResult(name, arm([0.1 * i + lead + 0.01 * seed * i for i in range(6)]), "", seed)
        for seed in (0, 1, 2)
        for name, lead in (("emodistill", 0.3), ("vanilla", 0.0))
    ]
    (figure,) = Stability(curves=[])(runs).figures
    assert figure.title == "Utility of emodistill minus that of each other arm, over training seeds and scenarios"
    assert "all, vanilla: 0.30 [" in figure.alternative


def test_the_table_of_arms_has_the_episodes_of_all_training_seeds():
    runs = [ArmResult("sft", arm([value] * 3), "", seed) for seed, value in ((0, 0.2), (1, 0.4))]
    (table,) = ArmsTable(load_vocabulary())(runs).tables
    (row,) = table.rows
    assert (row["arm"], row["episodes"], row["scenarios"]) == ("sft", 6, 3)
    assert row["utility"] == pytest.approx(0.3)


def test_episodes_that_training_seeds_share_come_once():
    shared = arm([0.2, 0.4, 0.6])
    assert by_arm([ArmResult("vanilla", shared, "", seed) for seed in range(3)]) == {"vanilla": shared}


def test_differences_over_training_seeds_need_shared_seeds_and_scenarios():
    lone = [ArmResult("emodistill", arm([0.5, 0.6]), "", seed) for seed in (0, 1)]
    assert "seed_differences" not in tables(analyse_main(lone, *WORDS))
    apart = [ArmResult("vanilla", arm([0.5, 0.6]), "", seed) for seed in (2, 3)]
    assert "seed_differences" not in tables(analyse_main([*lone, *apart], *WORDS))


def test_a_condition_is_part_of_the_name_of_an_arm():
    assert list(by_arm([ArmResult("iql", [], "debt"), ArmResult("iql", [])])) == ["iql, debt", "iql"]
