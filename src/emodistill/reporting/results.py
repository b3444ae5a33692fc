"""What analyses and studies hand to a report: every format (page, tables, JSON) is made from these objects."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.reporting.tables import Figure, Table, distinct

if TYPE_CHECKING:
    from emodistill.emotions.perceiver import Perceiver

RULE = "The rule, fixed before the numbers:"  # a verdict that begins so states the rule of the others


@dataclass(frozen=True)
class AnalysisResult:
    """What one analysis found.

    Attributes:
        verdicts: one plain sentence each, the most important first; one may begin with `RULE`.
        answer: one sentence that answers the study's question; empty where the analysis asks none.
        subject: the arm that the verdicts are about; empty where they are about several.
        summary: the few rows that answer the question of the analysis, for the terminal.
        values: what `report.json` holds at its top level besides tables and verdicts.
    """

    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    verdicts: Sequence[str] = ()
    answer: str = ""
    subject: str = ""
    summary: Table | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyResult:
    """What a study played and found.

    Attributes:
        arms: episodes and cost of every arm, in every condition, with every training seed.
        analyses: by their name, in the order of the report.
        about: how the numbers came about, e.g. `run`, `study`, `command`, `date`, `machine`.
        vocabulary: of the run.
        perceiver: whose reading of each turn the transcripts show.
        selector_checkpoint: whose Q-values the transcripts show for arms whose own run has no selector.
    """

    arms: Sequence[ArmResult]
    analyses: Mapping[str, AnalysisResult]
    about: Mapping[str, Any]
    vocabulary: Vocabulary
    perceiver: "Perceiver"
    selector_checkpoint: Path | None = None

    @property
    def tables(self) -> list[Table]:
        """All tables, each under a name of its own."""
        return distinct([table for one in self.analyses.values() for table in one.tables])

    @property
    def figures(self) -> list[Figure]:
        """The overview, and those of all analyses, each under a name of its own."""
        leading = [self.overview] if self.overview else []
        return distinct([*leading, *(figure for one in self.analyses.values() for figure in one.figures)])

    @cached_property
    def overview(self) -> Figure | None:
        """Utility of every arm with its interval, by domain; None where nothing was played."""
        from emodistill.reporting.figures.intervals import utility_by_arm  # here: a refused study draws nothing

        return utility_by_arm(self.arms)

    @property
    def title(self) -> str:
        """A heading, e.g. `EmoDistill: main of run demo`."""
        return f"EmoDistill: {self.about.get('study', 'evaluation')} of run {self.about.get('run', 'without a name')}"

    @property
    def statements(self) -> list[str]:
        """Rules and verdicts, as the analyses give them."""
        return [line for one in self.analyses.values() for line in one.verdicts]

    @property
    def verdicts(self) -> list[str]:
        """The verdicts of all analyses, without the rules."""
        return [line for line in self.statements if not line.startswith(RULE)]

    @property
    def rule(self) -> str:
        """How the verdicts are reached; empty where no analysis says it."""
        return " ".join(line.removeprefix(RULE).strip() for line in self.statements if line.startswith(RULE))

    @property
    def answer(self) -> str:
        """One sentence that answers the study's question: the first answer, else the first verdict, else empty."""
        return next((one.answer for one in self.analyses.values() if one.answer), next(iter(self.verdicts), ""))

    @property
    def subject(self) -> str:
        """That of the first analysis that has one."""
        return next((one.subject for one in self.analyses.values() if one.subject), "")

    @property
    def summary(self) -> Table | None:
        """That of the first analysis that has one."""
        return next((one.summary for one in self.analyses.values() if one.summary), None)

    @property
    def values(self) -> dict[str, Any]:
        """Those of all analyses; where two have the same key, the first one's."""
        return {key: value for one in reversed(list(self.analyses.values())) for key, value in one.values.items()}


def plain(value: Any) -> Any:
    """JSON values only: nan and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
