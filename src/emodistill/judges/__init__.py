"""Judges score one utterance from 1 to 10; the ledger keeps every judgement, so that none is asked for twice.

Importing this package loads no machine-learning library: the judges that need one are loaded when they are named.
"""

from typing import TYPE_CHECKING

from emodistill.judges.ensemble import EnsembleJudge
from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.request import Judge, Judgement, JudgeRequest, OnJudgement, announced
from emodistill.judges.sentinel import SentinelJudge
from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.judges.llm import LanguageModelJudge
    from emodistill.judges.local import LocalModelJudge
    from emodistill.judges.rubric import RubricJudge, Weights
    from emodistill.judges.sense import Sense, Signs

__all__ = [
    "EnsembleJudge",
    "Judge",
    "JudgeRequest",
    "Judgement",
    "LanguageModelJudge",
    "Ledger",
    "LedgerJudge",
    "LocalModelJudge",
    "OnJudgement",
    "RubricJudge",
    "Sense",
    "SentinelJudge",
    "Signs",
    "Weights",
    "announced",
]
_LOADED_WHEN_NAMED = {
    "llm": ("LanguageModelJudge",),
    "local": ("LocalModelJudge",),
    "rubric": ("RubricJudge", "Weights"),
    "sense": ("Sense", "Signs"),
}

__getattr__ = lazy_attributes(__name__, _LOADED_WHEN_NAMED)
