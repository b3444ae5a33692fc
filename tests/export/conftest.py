import json
import subprocess
import sys

import pytest
from digits import build_model
from tiny_runs import Workplace

from emodistill.export import TrainedAgent, Wanted, write_export
from emodistill.export.verification import Spoken

WITHOUT_US = """
import sys
sys.path[:] = [entry for entry in sys.path if not entry.rstrip("/").endswith("/src")]
try:
    import emodistill
except ImportError:
    pass
else:
    raise SystemExit("emodistill can be imported")
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A run with a selector and an SFT adapter; its names have blanks."""
    place = Workplace(tmp_path_factory.mktemp("export it"))
    build_model(place.model)
    place.train("iql", "my run")
    place.train("sft", "my run")
    return place


@pytest.fixture(scope="session")
def run(place):
    return place.folder / "my run"


@pytest.fixture(scope="session")
def agent(run):
    return TrainedAgent.of(run, "sft")


@pytest.fixture(scope="session")
def own(agent):
    return Spoken.of(agent)


@pytest.fixture(scope="session")
def exported(agent, tmp_path_factory):
    """A form -> the folder that it was exported to; each is made once."""
    made = {}

    def export(form):
        if form not in made:
            made[form] = tmp_path_factory.mktemp("exported") / f"my {form}"
            write_export(agent, made[form], Wanted(form))
        return made[form]

    return export


@pytest.fixture
def fresh():
    """Runs code in a new process that cannot import this package; returns what its last line says."""

    def execute(code):
        process = subprocess.run([sys.executable, "-I", "-c", WITHOUT_US + code], capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])

    return execute
