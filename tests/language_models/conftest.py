import gguf
import pytest
from tiny_gguf import write_gguf


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    return path


@pytest.fixture
def file(tmp_path):
    """Where a run keeps its accounts."""
    return str(tmp_path / "run" / "spending.json")
