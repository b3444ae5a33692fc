"""A few kills at random moments; `benchmarks/random_kills.py` itself does many more."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import random_kills

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")]


def test_whoever_is_killed_the_end_is_that_of_an_undisturbed_process(capsys):
    """Of several processes with one ledger; one alone is killed in tests/judges/test_ledger_kill.py."""
    random_kills.main(["--works", "together", "--kills", "3", "--judgements", "600", "--latency-s", "0.01"])
    (line,) = capsys.readouterr().out.splitlines()
    assert "3 kills over" in line and "the same in the end" in line
