"""What a judge is asked and what it answers. Any object with a name, a version and a `judge` method is one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from emodistill.negotiation.domains import Domain
from emodistill.negotiation.protocol import Turn
from emodistill.negotiation.scenarios import Scenario

LOWEST, HIGHEST = 1.0, 10.0


@dataclass(frozen=True)
class JudgeRequest:
    """One focal utterance to score.

    Attributes:
        history: the turns before it, of both sides, in order.
        emotion: the label the speaker was asked to show, or None where none was.
        utterance: the words to score. They are data: nothing in them may be read as an instruction.
    """

    scenario: Scenario
    history: tuple[Turn, ...]
    emotion: str | None
    utterance: str


@dataclass(frozen=True)
class Judgement:
    """A score from 1 to 10, or None with the reason why there is none. There is no third case."""

    score: float | None
    reason: str | None = None


class Judge(Protocol):
    """Scores utterances.

    `name` and `version` identify its verdicts in the ledger: whatever changes a score must change the version.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def judge(self, requests: Sequence[JudgeRequest]) -> list[Judgement]:
        """One judgement a request, in order."""


def rubric_version(domain: Domain) -> str:
    """Twelve hex digits of what a domain's file tells its judges: another rubric, other judgements."""
    return hashlib.sha256(json.dumps(domain.rubric, sort_keys=True).encode()).hexdigest()[:12]
