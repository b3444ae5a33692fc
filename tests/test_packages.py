"""What a package exports is there, and importing the package alone is cheap."""

import gc
import importlib
import subprocess
import sys

import pytest

from emodistill.lazy import loading

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


def test_the_policy_loads_no_compiler_and_leaves_it_usable():
    """bitsandbytes and PEFT would load PyTorch's compiler, a second of every start."""
    code = """
import os, sys, torch
os.environ["TORCHDYNAMO_DISABLE"] = "0"
import emodistill.policy.expression_policy
print(os.environ["TORCHDYNAMO_DISABLE"], "bitsandbytes" in sys.modules, "torch._inductor.compile_fx" in sys.modules)
def kept(graph, inputs):
    print("compiled")
    return graph
torch.compile(lambda x: x + 1, backend=kept)(torch.ones(1))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "0 True False\ncompiled\n"


def test_loading_does_not_look_for_garbage_and_leaves_things_as_they_were():
    for collects in (True, False):
        (gc.enable if collects else gc.disable)()
        try:
            with pytest.raises(KeyError), loading():
                assert not gc.isenabled()
                raise KeyError
            assert gc.isenabled() == collects
        finally:
            gc.enable()
