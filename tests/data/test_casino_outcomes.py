"""Emotions and outcomes of people: by hand on a few of them, and with the known signs on all."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from emodistill.data.casino.outcomes import emotion_outcomes
from emodistill.data.casino.reading import read_dialogues

TINY = Path(__file__).parent / "casino_tiny.json"


def found(paths):
    return {(row.emotion, row.outcome): row for row in emotion_outcomes(read_dialogues(paths))}


def test_differences_by_hand():
    """Three show anger: satisfied 2 3 2, liked 2 1 2. The nine others: 5 4 1 3 2 4 4 5 4, and 4 5 1 4 3 5 5 3 4."""
    rows = found([TINY])
    satisfaction, liked = rows["anger", "own satisfaction"], rows["anger", "liked by the other"]
    assert (satisfaction.showed, satisfaction.others) == (3, 9)
    assert satisfaction.difference == pytest.approx(7 / 3 - 32 / 9)
    assert liked.difference == pytest.approx(5 / 3 - 34 / 9)
    assert rows["sadness", "own points"].difference == pytest.approx(23 - (153 / 11))


def test_an_interval_holds_its_difference_and_is_the_same_each_time():
    rows, again = found([TINY]), found([TINY])
    assert rows == again
    assert all(row.interval[0] < row.difference < row.interval[1] for row in rows.values())


def test_an_emotion_that_nobody_shows_has_no_difference(tmp_path):
    path = tmp_path / "calm.json"
    path.write_bytes(TINY.read_bytes().replace("😡".encode(), b"!"))
    row = found([path])["anger", "own satisfaction"]
    assert row.showed == 0 and math.isnan(row.difference) and all(map(math.isnan, row.interval))


def test_the_import_reproduces_the_known_signs(shared_data):
    """As measured before by others on this corpus: anger costs satisfaction and liking, joy goes with being liked."""
    rows = found([shared_data / "casino" / f"casino_{name}.json" for name in ("train", "valid")])
    anger, disliked, joy = (
        rows[key]
        for key in (("anger", "own satisfaction"), ("anger", "liked by the other"), ("joy", "liked by the other"))
    )
    assert anger.interval[1] < 0 and disliked.interval[1] < 0 and joy.interval[0] > 0
    assert anger.interval[0] < -0.76 < anger.interval[1] and disliked.interval[0] < -1.10 < disliked.interval[1]
    assert joy.interval[0] < 0.24 < joy.interval[1]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "emodistill.data.casino", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_the_table():
    done = command(TINY)
    assert done.returncode == 0 and not done.stderr
    assert "6 dialogues, 4 deals, 2 walk-aways" in done.stdout
    assert "| anger | 3 of 12 | own satisfaction | -1.22 |" in done.stdout


def test_the_command_explains_a_mistake_in_one_line(tmp_path):
    done = command(tmp_path / "none.json")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
