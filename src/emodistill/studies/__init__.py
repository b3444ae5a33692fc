"""Studies: which conditions are trained and played, and what is asked of the episodes.

    from emodistill.studies import Condition, Study, StudyRun

A study's analyses are classes of the modules here, named in `configs/study/*.yaml`. A name is imported from its
module when it is first asked for, so that importing this package loads no PyTorch.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

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

__getattr__ = lazy_attributes(__name__, _MODULES)
