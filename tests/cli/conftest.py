import pytest
from tiny_runs import begun

from commands import entry


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A finished selector and a finished SFT adapter, to make mistakes with."""
    return begun(tmp_path_factory, "cli", "iql", "sft")


@pytest.fixture
def refused(capsys, monkeypatch):
    """Runs something as the scripts do; returns the one sentence that it ends with."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(work):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end, entry.explained():
            work()
        assert end.value.code == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1
        return said[0]

    return run
