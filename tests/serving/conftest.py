"""A tiny run whose arms speak with the phrasebook, and a server of it in this process."""

import pytest
from serving_cases import serving
from tiny_runs import Workplace


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("served"))
    place.train("iql")
    return place


@pytest.fixture(scope="session")
def run(place):
    return place.folder / "run"


@pytest.fixture(scope="session")
def served(run):
    with serving(run, "record=true", f"record_file={run.parent / 'people.parquet'}") as served:
        yield served
