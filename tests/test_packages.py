"""What a package exports is there, and importing the package alone is cheap."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("counterparties", "data", "evaluation", "export", "learners", "reporting", "safety", "studies")


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_exported_exists(package):
    module = importlib.import_module(f"emodistill.{package}")
    assert sorted(module.__all__) == sorted(name for names in module._MODULES.values() for name in names)
    for name in module.__all__:
        getattr(module, name)
    with pytest.raises(AttributeError, match="has no attribute"):
        module.nothing  # noqa: B018


def test_importing_the_packages_loads_no_torch():
    code = f"import sys, {', '.join(f'emodistill.{name}' for name in PACKAGES)}; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
