"""A few kills at random moments; `benchmarks/random_kills.py` itself does many more."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import random_kills

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")]


@pytest.mark.parametrize(("work", "kills"), [("judging", 2), ("together", 3)])
def test_whoever_is_killed_the_end_is_that_of_an_undisturbed_process(work, kills, capsys):
    random_kills.main(["--works", work, "--kills", f"{kills}", "--judgements", "600", "--latency-s", "0.01"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == (1 if work == "together" else 2)
    assert all(f"{kills} kills over" in line and "the same in the end" in line for line in said)
