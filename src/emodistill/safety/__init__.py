"""What an arm says beside what it gains: a detector of harmful moves, and a guard that keeps them out of its words.

A name is imported from its module when it is first asked for, so that the detector does not load PyTorch.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.safety.detector import KINDS, Detector, Flags, Match, detect
    from emodistill.safety.guard import Guard, load_guard
    from emodistill.safety.measures import error_table, scan

_MODULES = {
    "detector": ("KINDS", "Detector", "Flags", "Match", "detect"),
    "guard": ("Guard", "load_guard"),
    "measures": ("error_table", "scan"),
}

__all__ = ["KINDS", "Detector", "Flags", "Guard", "Match", "detect", "error_table", "load_guard", "scan"]

__getattr__ = lazy_attributes(__name__, _MODULES)
