"""Studies: which conditions are trained and played, and what is asked of the episodes.

    from emodistill.studies import Condition, Study, StudyRun

A study's analyses are classes of the modules here, named in `configs/study/*.yaml`. A name is imported from its
module when it is first asked for, so that importing this package loads no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emodistill.studies.study import Analysis, Condition, Study, StudyRun

_MODULES = {
    "study": (
        "Analysis",
        "Condition",
        "Study",
        "StudyRun",
    ),
}

__all__ = [
    "Analysis",
    "Condition",
    "Study",
    "StudyRun",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
