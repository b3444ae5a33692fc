"""Judges score one utterance from 1 to 10; the ledger keeps every judgement, so that none is asked for twice.

Importing this package loads no machine-learning library: the judges that need one are loaded when they are named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emodistill.judges.ensemble import EnsembleJudge
from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.request import Judge, Judgement, JudgeRequest, OnJudgement, announced
from emodistill.judges.sentinel import SentinelJudge

if TYPE_CHECKING:
    from emodistill.judges.llm import LanguageModelJudge
    from emodistill.judges.local import LocalModelJudge
    from emodistill.judges.rubric import RubricJudge, Weights

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
    "SentinelJudge",
    "Weights",
    "announced",
]
_LOADED_WHEN_NAMED = {
    "LanguageModelJudge": "llm",
    "LocalModelJudge": "local",
    "RubricJudge": "rubric",
    "Weights": "rubric",
}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_WHEN_NAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_WHEN_NAMED[name]}"), name)
