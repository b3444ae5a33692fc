"""What a judge is asked and what it answers. Any object with a name, a version and a `judge` method is one."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from emodistill.language_models.completion import Usage
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
        held: what an earlier call was told of it and did not get to count; no part of what is asked.
    """

    scenario: Scenario
    history: tuple[Turn, ...]
    emotion: str | None
    utterance: str
    held: "Judgement | None" = None


@dataclass(frozen=True)
class Judgement:
    """A score from 1 to 10, or None with the reason why there is none.

    Attributes:
        raw: the reply that the score was read from, as it came; None for a judge that replies in numbers.
        usage: what the judgement took; nothing, for a judge that calls nobody.
        held: a score that does not count yet, where `score` is None because something else must be known first.
    """

    score: float | None
    reason: str | None = None
    raw: str | None = None
    usage: Usage = Usage()
    held: float | None = None


OnJudgement = Callable[[int, Judgement], None]  # which request, in the order they were given, and its judgement


class Judge(Protocol):
    """Scores utterances.

    `name` and `version` identify its verdicts in the ledger: whatever changes a score must change the version, the
    model and the sampling settings among it.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement a request, in order.

        Args:
            on_judgement: called once for every request, on the calling thread, as soon as its judgement is there, so
                that what was paid for is stored whatever becomes of the others. Of a score that is held it is told
                before, too; the usages of both then add up to the whole.
        """


def announced(judgements: list[Judgement], on_judgement: OnJudgement | None, first: int = 0) -> list[Judgement]:
    """The same judgements, after `on_judgement` was told of each; they are those of the requests from `first` on."""
    if on_judgement is not None:
        for place, judgement in enumerate(judgements, first):
            on_judgement(place, judgement)
    return judgements


def rubric_version(domain: Domain) -> str:
    """Twelve hex digits of what a domain's file tells its judges: another rubric, other judgements."""
    return hashlib.sha256(json.dumps(domain.rubric, sort_keys=True).encode()).hexdigest()[:12]
