"""A small report with words that try to break out of it."""

from pathlib import Path

from episodes import make_episode

from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Turn
from emodistill.reporting.report import write_report
from emodistill.reporting.results import AnalysisResult, StudyResult
from emodistill.reporting.tables import Column, Figure, Table

HOSTILE = (
    '<img src=x onerror="window.broken=1"></script><script>window.broken=2</script> \u202eRTL\u202c & \u05d0\u05d1'
)
TABLE = Table(
    "arms",
    "Arms & <others>",
    [
        Column("arm", "arm", "text"),
        Column("episodes", "episodes", "count"),
        Column("utility", "utility [95 %]", "interval"),
        Column("p", "p_{Holm}", digits=3),
        Column("share", "share", "percent"),
    ],
    [
        {"arm": "fixed:joy_1", "episodes": 20, "utility": (0.5, 0.25, 0.75), "p": 0.04, "share": 0.125},
        {"arm": "a|b <b>*x*</b> 50 % $5 [red]", "episodes": 3, "utility": None, "p": float("nan"), "share": None},
        {"arm": "z", "episodes": 100, "utility": (0.1, 0.0, 0.2), "p": 0.5, "share": 1.0},
    ],
    "Read it with care: 5 % & \\more.",
)


def line(canvas):
    canvas.subplots().plot([0, 1], [1, 0])


FIGURE = Figure("line", "A line", 'Falls from 1 to 0, "quoted" <em>', line)


def hostile_episode(number=0, seed=0) -> Episode:
    scenario = make_episode(number=number).scenario
    turns = (
        Turn(1, FOCAL, HOSTILE, "propose", 30.0, "joy", 1.0, True, ("speaks for the other",)),
        Turn(1, COUNTERPARTY, "Fine.", "accept"),
    )
    return Episode("h", "test", scenario, "fixed", "evil", "behavioural:victim", seed, turns, "deal", 30.0)


def some_played(scenarios=3, seeds=2):
    pairs = [(number, seed) for number in range(scenarios) for seed in range(seeds)]
    return [
        ArmResult("vanilla", [make_episode(3, n, s, emotions=False) for n, s in pairs]),
        ArmResult("emodistill", [make_episode(2 + s, n, s) for n, s in pairs]),
        ArmResult('evil"><b>', [hostile_episode(n, s) for n, s in pairs]),
    ]


def write_some_report(folder: Path, played=None, result=None, selector_checkpoint=None, detect=None) -> Path:
    result = result or AnalysisResult(
        [TABLE],
        [FIGURE],
        ["The rule, fixed before the numbers: x beats y.", f"debt: {HOSTILE}"],
        "emodistill is above vanilla.",
        "emodistill",
        values={"cells": [1.0, float("nan")]},
    )
    about = {"run": "tiny", "study": "main", "command": f"python evaluate.py {HOSTILE}", "date": "2026-11-24"}
    played = some_played() if played is None else played
    shown = load_vocabulary(), load_perceiver("counterparty")
    write_report(folder, StudyResult(played, {"table": result}, about, *shown, selector_checkpoint), detect)
    return folder / "report.html"
