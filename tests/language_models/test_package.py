"""What the package exports, and what importing it costs."""

import subprocess
import sys

import emodistill.language_models as package

LIGHT = """
import sys
from emodistill.language_models import CompletionRequest, Endpoint
Endpoint("http://127.0.0.1:1/v1", "m")
print("torch" in sys.modules)
"""


def test_every_name_is_there():
    assert all(getattr(package, name).__module__.startswith(package.__name__) for name in package.__all__)


def test_an_endpoint_needs_no_torch():
    assert subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True).stdout == "False\n"
