"""The learners of the three stages: IQL selector, supervised expression policy, Judge Policy Optimization.

    from emodistill.learners import IQLLearner, JPOLearner, SFTLearner, Transitions, load_selector

A name is imported from its module when it is first asked for: the selector needs no PEFT and no bitsandbytes, whose
imports take seconds.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.learners.iql import IQLLearner, Transitions
    from emodistill.learners.jpo import JPOLearner
    from emodistill.learners.selector import IQLAdvantages, IQLSelector, MeanReturnBaseline, load_selector
    from emodistill.learners.sft import SFTLearner

_MODULES = {
    "iql": ("IQLLearner", "Transitions"),
    "jpo": ("JPOLearner",),
    "selector": ("IQLAdvantages", "IQLSelector", "MeanReturnBaseline", "load_selector"),
    "sft": ("SFTLearner",),
}

__all__ = [
    "IQLAdvantages",
    "IQLLearner",
    "IQLSelector",
    "JPOLearner",
    "MeanReturnBaseline",
    "SFTLearner",
    "Transitions",
    "load_selector",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
