"""What users import from `emodistill.judges`."""

import subprocess
import sys

import pytest

import emodistill.judges


def test_every_exported_name_is_there():
    for name in emodistill.judges.__all__:
        assert getattr(emodistill.judges, name).__module__.startswith("emodistill.judges.") or name == "OnJudgement"
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        emodistill.judges.Oracle  # noqa: B018


def test_importing_the_package_loads_no_machine_learning_library():
    heavy = "[name for name in ('torch', 'transformers', 'sklearn', 'scipy') if name in sys.modules]"
    command = [sys.executable, "-c", f"import sys, emodistill.judges; print({heavy})"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("[]\n", "")
