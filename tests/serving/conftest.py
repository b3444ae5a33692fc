"""A tiny run whose arms speak with the phrasebook, and a server of it in this process."""

import pytest
from serving_cases import serving
from tiny_runs import begun


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return begun(tmp_path_factory, "served", "iql")


@pytest.fixture(scope="session")
def run(place):
    return place.folder / "run"


@pytest.fixture(scope="session")
def served(run):
    with serving(run, "record=true", f"record_file={run.parent / 'people.parquet'}") as served:
        yield served
