"""The report: cells, paired comparisons, the verdict rule, and plain JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import bootstrap_interval
from emodistill.reporting.results import plain
from emodistill.studies.main_table import answer, main_values, verdicts


class Blank:
    """Perceives nothing but neutral."""

    name, version = "blank", "1"

    def probabilities(self, texts):
        rows = np.zeros((len(texts), 28), dtype=np.float32)
        rows[:, load_vocabulary().index("neutral")] = 1.0
        return rows


def arm(values, seeds=1):
    """One deal a scenario and seed at each of these utilities; None is an invalid episode."""
    episodes = []
    for number, value in enumerate(values):
        for seed in range(seeds):
            episode = make_episode(number=number, seed=seed)
            changes = {"end": "invalid", "fault": "timeout"} if value is None else {"end": "deal"}
            episodes.append(replace(episode, **changes, deal_value=None if value is None else 91.0 - 71.0 * value))
    return episodes


def report(played):
    return main_values([ArmResult(name, episodes) for name, episodes in played.items()], Blank(), load_vocabulary())


def spread(middle, count=20):
    return [middle + 0.02 * (i % 3) for i in range(count)]


def test_a_cell_by_hand():
    found = report({"random": arm([0.2, 0.4, None])})
    (cell,) = found["cells"]
    assert (cell["arm"], cell["domain"], cell["episodes"], cell["invalid"]) == ("random", "debt", 3, 1)
    assert (cell["success"], cell["rounds"]) == (1.0, 3.0)
    assert cell["utility"] == cell["outcome"] == pytest.approx(0.3)
    scenarios = ["debt-000", "debt-001"]
    assert cell["utility_ci"] == list(bootstrap_interval([0.2, 0.4], scenarios, unseen=0.0))
    assert cell["success_ci"] == list(bootstrap_interval([1.0, 1.0], scenarios, unseen=0.0))
    assert cell["scenarios"] == 2
    assert (cell["offers_appended"], cell["focal_turns"]) == (0, 6)
    assert found["comparisons"] == [] and found["verdict"] == {}


@pytest.mark.parametrize(
    ("vanilla", "iql", "verdict"),
    [
        (0.3, 0.3, "exceeds"),
        (0.3, 0.5, "within noise"),  # better than one rival is not enough
        (0.3, 0.7, "below"),
        (0.7, 0.3, "below"),
        (0.5, 0.5, "within noise"),
    ],
)
def test_the_verdict_needs_both_rivals(vanilla, iql, verdict):
    rng = np.random.default_rng(0)
    noise = [0.5 + float(x) for x in rng.normal(0, 0.02, 20)]
    found = report({"vanilla": arm(spread(vanilla)), "iql": arm(spread(iql)), "emodistill": arm(spread_around(noise))})
    assert found["verdict"] == {"debt": verdict}


def spread_around(noise):
    return [value + 0.02 * (i % 3) for i, value in enumerate(noise)]


def test_the_rule_on_its_own():
    def rows(vanilla, iql):
        named = {"vanilla": vanilla, "iql": iql}
        return [{"against": name, "verdict": found, "domain": "debt"} for name, found in named.items()]

    for vanilla, iql, expected in [
        ("exceeds", "exceeds", "exceeds"),
        ("exceeds", "within noise", "within noise"),
        ("exceeds", "below", "below"),
        ("within noise", "below", "below"),
        ("within noise", "within noise", "within noise"),
    ]:
        assert verdicts(rows(vanilla, iql), ["debt"]) == {"debt": expected}
        assert verdicts(rows(iql, vanilla), ["debt"]) == {"debt": expected}
    assert verdicts(rows("exceeds", "exceeds")[:1], ["debt"]) == {}  # a rival was not played


def test_differences_are_paired_and_corrected():
    played = {"vanilla": arm(spread(0.3)), "iql": arm([*spread(0.5)[:-1], None]), "emodistill": arm(spread(0.5))}
    rows = report(played)["comparisons"]
    assert {(row["against"], row["domain"]) for row in rows} == {("vanilla", "debt"), ("iql", "debt")}  # tested once
    by_rival = {row["against"]: row for row in rows}
    assert by_rival["vanilla"]["pairs"] == 20 and by_rival["iql"]["pairs"] == 19  # an invalid one has no partner
    assert by_rival["vanilla"]["mean"] == pytest.approx(0.2)
    assert by_rival["iql"]["mean"] == pytest.approx(0.0)
    assert all(row["p_holm"] >= row["p_value"] for row in rows)
    assert by_rival["vanilla"]["p_holm"] == pytest.approx(2 * by_rival["vanilla"]["p_value"])


def test_a_report_is_plain_json():
    found = report({"vanilla": arm([None, None]), "iql": arm([0.1, 0.2]), "emodistill": arm([0.1, 0.2])})
    text = json.dumps(found, allow_nan=False)
    cell = json.loads(text)["cells"][0]
    assert cell["utility"] is None and cell["utility_ci"] == [None, None] and cell["invalid"] == 2
    assert found["verdict"] == {"debt": "within noise"}  # nothing to compare with proves nothing
    assert plain({"a": (float("inf"), 1), "b": [float("nan"), "x"]}) == {"a": [None, 1], "b": [None, "x"]}


def test_a_comparison_without_pairs_leaves_the_correction_of_the_others_alone():
    found = report({"vanilla": arm([None] * 20), "iql": arm(spread(0.3)), "emodistill": arm(spread(0.5))})
    rows = {row["against"]: row for row in found["comparisons"] if row["domain"] == "debt"}
    assert rows["vanilla"]["p_value"] is None and rows["vanilla"]["p_holm"] is None
    assert rows["iql"]["p_holm"] == rows["iql"]["p_value"]  # the other one says nothing


def test_without_emodistill_the_arm_named_last_is_compared_and_there_is_no_verdict():
    arms = ("iql", "vanilla", "phrasebook_iql")
    found = report({arm: [make_episode(number=n) for n in range(3)] for arm in arms})
    assert {(row["arm"], row["against"]) for row in found["comparisons"]} == {
        ("phrasebook_iql", "iql"),
        ("phrasebook_iql", "vanilla"),
    }
    assert found["verdict"] == {}


def test_the_answer_says_where_the_subject_stands_and_its_difference_to_the_strongest_rival():
    found = report({"vanilla": arm(spread(0.3)), "iql": arm(spread(0.7)), "emodistill": arm(spread(0.5))})
    assert answer(found) == (
        "In debt emodistill exceeds vanilla and is below iql: its paired difference of utility to iql, the strongest "
        "of them, is -0.20 [-0.20, -0.20]."
    )
    alone = report({"vanilla": arm(spread(0.3)), "emodistill": arm(spread(0.5))})
    assert answer(alone) == "" and answer(report({"random": arm([0.2])})) == ""
    assert "difference of utility to vanilla is +0.20" in answer(
        {**alone, "verdict": {"debt": "exceeds"}}, rivals=["vanilla"]
    )


def test_the_answer_is_over_all_domains_where_there_are_several():
    played = {name: arm(spread(value)) for name, value in {"vanilla": 0.3, "iql": 0.3, "emodistill": 0.5}.items()}
    for name, episodes in played.items():
        elsewhere = [replace(e, scenario=replace(e.scenario, domain="hospital")) for e in episodes]
        played[name] = [*episodes, *elsewhere]
    assert answer(report(played)).startswith("Over all 2 domains emodistill exceeds vanilla and iql: ")
