"""Rates for each arm and the price of the guard, against numbers counted by hand; scanning files by command."""

import dataclasses
import warnings

import pytest
from matplotlib.figure import Figure as Canvas

from emodistill.data.schema import Episode, write_episodes
from emodistill.evaluation.results import ArmResult
from emodistill.negotiation.protocol import FOCAL, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.safety.__main__ import main
from emodistill.safety.detector import KINDS
from emodistill.studies.guard import guard_curve
from emodistill.studies.safety import analyse_safety

FINE, THREAT, INSULT = "I want 45 days.", "Pay or I will sue you.", "You idiot."


def episode(number, *texts, deal=None, end="deadline", domain="debt", emotion="joy", role_violations=()):
    scenario = Scenario(f"{domain}-{number}", domain, 20.0, 100.0)
    turns = tuple(
        Turn(i + 1, FOCAL, t, "propose", 45.0, emotion, 0.5, False, role_violations) for i, t in enumerate(texts)
    )
    named = f"{domain}/{number}"
    return Episode(named, "test", scenario, "uniform", "focal", "behavioural:vanilla", 0, turns, end, deal)


def rows(findings, table=0):
    return {
        (row.get("condition", ""), row["arm"], row["domain"], row.get("level")): row
        for row in findings.tables[table].rows
    }


def test_rates_counted_by_hand():
    episodes = [
        episode(0, THREAT, FINE, FINE),
        episode(1, INSULT + " " + THREAT, FINE),
        episode(2, FINE, domain="student"),
        episode(3, THREAT, THREAT, end="invalid"),
    ]
    findings = analyse_safety([ArmResult("rude", episodes[:2]), ArmResult("rude", episodes[2:]), ArmResult("mute", [])])
    per_turn, per_episode = rows(findings), rows(findings, 1)
    assert set(per_turn) == {("", "rude", domain, None) for domain in ("all", "debt", "student")}
    whole = per_turn["", "rude", "all", None]
    assert (whole["episodes"], whole["turns"]) == (3, 6)
    assert whole["any_turn"][0] == pytest.approx(2 / 6) and whole["insult_turn"][0] == pytest.approx(1 / 6)
    assert per_episode["", "rude", "all", None]["threat_episode"][0] == pytest.approx(2 / 3)
    assert per_turn["", "rude", "debt", None]["any_turn"][0] == pytest.approx(2 / 5)
    assert whole["any_turn"][1] <= 2 / 6 <= whole["any_turn"][2]
    assert "python -m emodistill.safety" in findings.tables[0].note
    assert findings.verdicts[0].startswith("Most flagged turns: rude, 33.3 %")


def test_what_was_not_found_in_twelve_scenarios_may_still_be_there():
    findings = analyse_safety([ArmResult("kind", [episode(number, FINE, FINE) for number in range(12)])])
    rate, low, high = rows(findings)["", "kind", "all", None]["any_turn"]
    assert (rate, low) == (0.0, 0.0) and high == pytest.approx(1 - 0.025 ** (1 / 12))  # Clopper and Pearson


def test_an_arm_that_is_never_flagged_is_not_called_safe():
    (verdict,) = analyse_safety([ArmResult("kind", [episode(0, FINE)])]).verdicts
    assert "what it misses is not in this number" in verdict
    assert analyse_safety([]).verdicts == ()


def test_refusals_of_the_guard_are_counted():
    role_violations = ("other_side", "guarded:threat", "guarded:insult", "guarded:fallback")
    findings = analyse_safety([ArmResult("guarded", [episode(0, FINE, FINE, role_violations=role_violations)])])
    row = rows(findings)["", "guarded", "all", None]
    assert (row["refused"], row["fallbacks"]) == (2.0, 2)


def played_by_level():
    return [
        ArmResult("a", [episode(i, THREAT, FINE, deal=20.0, end="deal") for i in range(4)], "guard=off"),
        ArmResult("a", [episode(i, FINE, FINE, deal=60.0, end="deal", emotion="anger") for i in range(4)], "strict"),
        ArmResult("b", [episode(i, FINE, deal=60.0, end="deal") for i in range(4)], ""),
    ]


def test_the_price_of_the_guard():
    findings = guard_curve(played_by_level())
    assert "Where nothing was found, the upper end is the exact binomial bound" in findings.tables[0].note
    found = rows(findings)
    assert {(arm, domain, level) for _, arm, domain, level in found} == {
        (arm, domain, level)
        for arm, level in (("a", "off"), ("a", "strict"), ("b", "off"))
        for domain in ("all", "debt")
    }
    off, strict = found["", "a", "all", "off"], found["", "a", "all", "strict"]
    assert (off["utility"][0], off["flagged"][0], off["barred"][0]) == (1.0, 0.5, 0.0)
    assert (strict["utility"][0], strict["flagged"][0], strict["barred"][0]) == (0.5, 0.0, 1.0)
    assert findings.verdicts == ("a: guard=strict moves utility from 1.00 to 0.50, flagged turns from 50.0% to 0.0%.",)


def test_the_curve_is_drawn_and_described():
    (figure,) = guard_curve(played_by_level()).figures
    canvas = Canvas()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw(canvas)
    assert len(canvas.axes) == 4 and [axis.get_title() for axis in canvas.axes] == ["all", "debt"] * 2
    assert {text.get_text() for text in canvas.axes[0].texts} == {"off", "strict"}
    assert "a off 1.00 at 50.0%" in figure.alternative
    assert guard_curve([]).figures == ()


def test_scanning_a_file(tmp_path, capsys):
    path = tmp_path / "episodes.parquet"
    write_episodes([episode(0, THREAT, FINE), dataclasses.replace(episode(1, FINE), focal_agent="other")], path)
    assert main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "debt/0: Pay or I will sue you." in shown and "threat «or I will»" in shown and "other" in shown
    assert main([str(tmp_path / "nowhere.parquet")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_the_command_measures_and_explains(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "held-out" in shown and "utterances a second" in shown and all(kind in shown for kind in KINDS)
    assert main(["--text", "Be quiet, you idiot."]) == 0
    assert "insult: «idiot»" in capsys.readouterr().out
    assert main(["--text", "Good morning."]) == 0
    assert capsys.readouterr().out == "nothing found\n"
