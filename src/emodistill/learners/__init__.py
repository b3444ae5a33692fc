"""The learners of the three stages: IQL selector, supervised expression policy, Judge Policy Optimization."""

from emodistill.learners.iql import IQLLearner, Transitions
from emodistill.learners.jpo import JPOLearner
from emodistill.learners.selector import IQLAdvantages, IQLSelector, MeanReturnBaseline, load_selector
from emodistill.learners.sft import SFTLearner

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
