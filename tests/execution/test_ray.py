"""Ray as the executor leaves the same files as one process; skipped where Ray is not installed."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_pieces import marks, piece

from emodistill.execution import ray_engine
from emodistill.execution.pieces import Needs, OneAfterOther
from emodistill.execution.ray_engine import RayExecutor

SCRIPT = """
import sys
from pathlib import Path
from small_pieces import piece
from parts_judging import REQUESTS, DiaryJudge
from emodistill.errors import UserError
from emodistill.execution.ray_engine import RayExecutor
from emodistill.judges.ledger import Ledger, LedgerJudge

if __name__ == "__main__":
    folder, executor = Path(sys.argv[1]), RayExecutor(workers=2)
    pieces = [piece(folder, f"{i}", kit="xy"[i % 2], does="die once" if i == 2 else "") for i in range(6)]
    executor.run("test", [*pieces, piece(folder, "last", after=["1", "5"])])
    with Ledger(folder / "ledger.sqlite") as ledger:
        judge = DiaryJudge(folder / "diary", dies_at=300)
        print(LedgerJudge(judge, ledger, executor=executor).scores(REQUESTS[:600]))
    try:
        executor.run("test", [piece(folder, "wrong", does="mistake"), piece(folder, "slow", does=30.0)])
    except UserError as error:
        print(f"mistake: {error}")
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -e .[ray]")
def test_ray_does_what_one_process_does(tmp_path):
    script, out = tmp_path / "driver.py", tmp_path / "ray"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    places = [here, here.parent / "judges", Path(ray_engine.__file__).parents[2]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    ran = subprocess.run([sys.executable, script, out], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    OneAfterOther().run("test", [piece(tmp_path / "one", f"{i}", kit="xy"[i % 2]) for i in range(6)])
    for number in range(6):
        assert (out / f"{number}").read_bytes() == (tmp_path / "one" / f"{number}").read_bytes()
    did = [name for name, _ in marks(out, "did")]
    assert did.index("last") > max(did.index("1"), did.index("5"))
    assert sorted(did)[:8] == [*"012", "2", *"345", "last"]  # one lost its worker once
    scores = [None if i % 9 == 8 else 1.0 + i % 10 for i in range(600)]
    assert ran.stdout.splitlines()[-2:] == [str(scores), "mistake: there is no such thing; choose another"]
    asked = [line.split()[1] for line in (out / "diary").read_text().splitlines() if line.startswith("asked")]
    again = [300, *(i for i in range(256, 300) if i % 9 == 8)]  # the call under way, and what had brought no score
    assert sorted(asked, key=int) == [str(i) for i in sorted([*range(600), *again])]


@pytest.mark.parametrize(
    ("settings", "machines", "asked"),
    [
        ({}, [{"CPU": 2.0}, {"CPU": 2.0}], (2, 0)),
        ({"model_gpus": 1}, [{"CPU": 8.0}], (4, 0)),
        ({}, [{"CPU": 64.0}, {"CPU": 2.0, "GPU": 1.0}], (2, 1)),
        ({"model_cpus": 6, "model_gpus": 0.5}, [{"CPU": 8.0, "GPU": 4.0}, {"memory": 1.0}], (6, 0.5)),
    ],
)
def test_a_piece_asks_for_no_more_than_one_machine_has(tmp_path, settings, machines, asked):
    """Or else Ray waits for ever for a machine that has it."""
    model = replace(piece(tmp_path, "model"), needs=Needs(model=True))
    assert tuple(RayExecutor(**settings)._resources(model, machines).values()) == asked
