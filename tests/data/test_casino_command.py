"""`python -m emodistill.data.casino`: what the files hold."""

import subprocess
import sys
from pathlib import Path

TINY = Path(__file__).parent / "casino_tiny.json"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "emodistill.data.casino", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_counts_what_is_there():
    done = command(TINY)
    assert done.returncode == 0 and not done.stderr
    assert "6 dialogues, 4 deals, 2 walk-aways" in done.stdout


def test_the_command_explains_a_mistake_in_one_line(tmp_path):
    done = command(tmp_path / "none.json")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
