"""The script of docs/scaling.md under a small stand-in for SLURM: its shares are what one process plays."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import composed

from commands.building import build_study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SBATCH = """#!/bin/bash
# Runs the tasks of an array as processes of this machine, at the same time.
[[ $(sed -n 's/^#SBATCH //p' "$1") =~ --array=([0-9]+)-([0-9]+) ]] || exit 1
export SLURM_ARRAY_TASK_COUNT=$((BASH_REMATCH[2] - BASH_REMATCH[1] + 1))
for task in $(seq "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"); do
  SLURM_ARRAY_TASK_ID=$task bash "$1" > "$PLACE/slurm-$task.out" 2>&1 &
done
failed=0
for job in $(jobs -p); do wait "$job" || failed=$?; done
exit "$failed"
"""
SRUN = """#!/bin/bash
# The second task finds at first that it has to wait for others.
if [ "$SLURM_ARRAY_TASK_ID" = 2 ] && mkdir "$PLACE/waited" 2> /dev/null; then exit 75; fi
exec "$@"
"""
STAND_INS = {
    "sbatch": SBATCH,
    "srun": SRUN,
    "sleep": '#!/bin/bash\necho "sleep $1" >> "$PLACE/slept"\n',
    "python": f'#!/bin/bash\nexec "{sys.executable}" "$@"\n',
}
WORDS = ["study=prompting", "arms=[none+phrasebook,joy+phrasebook]", "domains=[debt]", "scenarios_per_domain=2"]
WORDS += ["episodes_per_scenario=20"]


def script():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    section = page.split("\n## With SLURM\n")[1].split("\n## ")[0]
    (found,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", section, re.DOTALL)
    return found


def play(folder, words):
    """The study by one process; what there is of it already is not played again."""
    given = [*words, f"run_dir={folder}", "executor.workers=1"]
    study = build_study(composed("evaluate", *given), given)
    with study.opened("auto"):
        study.play()
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("**/episodes/*.parquet")}


def test_the_script_of_the_page_plays_what_one_process_plays(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in STAND_INS.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    words, run = [*WORDS, f"data.corpus.folder={tmp_path / 'corpora'}"], tmp_path / "run"
    text = script()
    for ours, theirs in (
        ("run=demo study=stability name=spread seeds=10 train=missing", " ".join([f"run_dir={run}", *words])),
        ("--array=1-8", "--array=1-2"),
    ):
        assert text.count(ours) == 1
        text = text.replace(ours, theirs)
    (tmp_path / "job.sh").write_text(text)
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PLACE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(["sbatch", tmp_path / "job.sh"], cwd=ROOT, env=os.environ | environment, check=False)
    said = [(tmp_path / f"slurm-{task}.out").read_text() for task in (1, 2)]
    assert ran.returncode == 0, said
    assert all(f"share {task}/2 of" in one for task, one in enumerate(said, 1))
    assert (tmp_path / "slept").read_text() == "sleep 60\n"  # once, and by the second task
    parts = {path: path.stat().st_mtime_ns for path in run.glob("**/parts/*.parquet")}
    assert len(parts) == 4  # of each arm 40 episodes, at most 32 in lockstep
    assert play(run, words) == play(tmp_path / "one", words)
