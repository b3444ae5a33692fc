"""Arms on unseen scenarios: who plays, what was played, and statistics over it.

    from emodistill.evaluation import Runner, bootstrap_interval, paired_difference, parse_arm

A name is imported from its module when it is first asked for, so that importing this package loads no PyTorch.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.evaluation.arms import Arm, parse_arm, parse_arms
    from emodistill.evaluation.expression import ExpressionTest
    from emodistill.evaluation.metrics import episode_metrics
    from emodistill.evaluation.ratings import bradley_terry
    from emodistill.evaluation.results import ArmResult, Cost
    from emodistill.evaluation.runner import Runner
    from emodistill.evaluation.speakers import Speakers
    from emodistill.evaluation.stage_graph import StageGraph
    from emodistill.evaluation.statistics import bootstrap_interval, holm, paired_difference

_MODULES = {
    "arms": (
        "Arm",
        "parse_arm",
        "parse_arms",
    ),
    "expression": ("ExpressionTest",),
    "metrics": ("episode_metrics",),
    "ratings": ("bradley_terry",),
    "results": (
        "ArmResult",
        "Cost",
    ),
    "runner": ("Runner",),
    "speakers": ("Speakers",),
    "stage_graph": ("StageGraph",),
    "statistics": (
        "bootstrap_interval",
        "holm",
        "paired_difference",
    ),
}

__all__ = [
    "Arm",
    "ArmResult",
    "Cost",
    "ExpressionTest",
    "Runner",
    "Speakers",
    "StageGraph",
    "bootstrap_interval",
    "bradley_terry",
    "episode_metrics",
    "holm",
    "paired_difference",
    "parse_arm",
    "parse_arms",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
