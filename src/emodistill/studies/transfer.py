"""Does what was learned in one domain carry over to another? The matrix of training and playing domains.

A condition is what was trained: one domain alone, or all but one (`without_<domain>`). Every condition plays all
domains, so a row of the matrix is a condition and a column a domain. Normalised means: divided by the utility of the
same arm that was trained on the domain it plays, so 1 is as good as at home.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import ALPHA, correct
from emodistill.reporting.figures.matrix import matrix
from emodistill.reporting.results import RULE, AnalysisResult
from emodistill.reporting.tables import Column, Figure, Table
from emodistill.studies.comparisons import (
    COMPARED,
    arms_of,
    compared,
    conditions_of,
    domains_of,
    mean_interval,
    utility,
)

WITHOUT = "without_"
_MATRIX = [
    Column("arm", "arm", "text"),
    Column("trained", "trained on", "text"),
    Column("domain", "played in", "text"),
    Column("utility_interval", "utility [95 %]", "interval", 3),
    Column("share", "of the value at home", "percent"),
    *COMPARED,
]
_NOTE = (
    "Difference: minus the same arm trained on the domain it plays, paired by scenario and seed; Holm's correction "
    "over all of this table. Arms that learnt nothing are the same in every row, and show what can be lost at most."
)


@dataclass(frozen=True)
class Transfer:
    """The matrix of each arm, what it loses away from home, and a verdict for each arm.

    Attributes:
        floor: an arm that learnt nothing, for the verdict; None leaves that comparison out.
    """

    floor: str | None = None
    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        rows = [row for arm in arms_of(played) if arm != self.floor for row in self._rows(played, arm)]
        correct(rows)
        figures = [self._figure(rows, arm, played) for arm in arms_of(played) if arm != self.floor]
        table = Table("transfer", "Trained there, played here", _MATRIX, rows, _NOTE)
        lines = [line for arm in arms_of(played) if arm != self.floor for line in self._verdicts(played, rows, arm)]
        return AnalysisResult([table], figures, [_RULE, *lines] if lines else [])

    def _rows(self, played: Sequence[ArmResult], arm: str) -> list[dict[str, Any]]:
        rows = []
        for trained in conditions_of(played):
            for domain in domains_of(played):
                here = utility(played, arm, trained, domain)
                if not here:
                    continue
                home = utility(played, arm, domain, domain)
                at_home = mean_interval(home, self.seed)[0]
                mean, low, high = mean_interval(here, self.seed)
                apart = compared(here, home, self.seed) if trained != domain else {"p_value": float("nan")}
                share = mean / at_home if at_home > 0 else float("nan")
                about = {"arm": arm, "trained": trained, "domain": domain, "utility": mean, "share": share}
                rows.append({**about, "utility_interval": [mean, low, high], **apart})
        return rows

    def _figure(self, rows: Sequence[Mapping[str, Any]], arm: str, played: Sequence[ArmResult]) -> Figure:
        cells = {(row["trained"], row["domain"]): row["share"] for row in rows if row["arm"] == arm}
        conditions, domains = conditions_of(played), domains_of(played)
        values = [[cells.get((trained, domain)) for domain in domains] for trained in conditions]
        axes = ("training domain", "domain played", "share of the utility of training at home")
        return matrix(f"transfer_{arm}", f"Transfer of {arm}", conditions, domains, values, axes, 1.0)

    def _verdicts(self, played: Sequence[ArmResult], rows: Sequence[Mapping[str, Any]], arm: str) -> list[str]:
        own = [row for row in rows if row["arm"] == arm]
        lines = []
        for name, away in (
            (
                "one other domain",
                [r for r in own if r["trained"] in domains_of(played) and r["trained"] != r["domain"]],
            ),
            ("all other domains", [r for r in own if r["trained"] == f"{WITHOUT}{r['domain']}"]),
        ):
            away = [row for row in away if not math.isnan(row["share"])]  # its home may not have been played
            if not away:
                continue
            lost = sum(row["verdict"] == "below" for row in away)
            share = fmean(row["share"] for row in away)
            lines.append(
                f"{arm} trained on {name} keeps {100 * share:.0f} % of the utility of training at home on average; "
                f"it is below it in {lost} of {len(away)} cells{self._over_floor(played, arm, away)}."
            )
        return lines

    def _over_floor(self, played: Sequence[ArmResult], arm: str, away: Sequence[Mapping[str, Any]]) -> str:
        """How many cells away from home exceed the arm that learnt nothing, by their intervals alone."""
        if self.floor not in arms_of(played):
            return ""
        above = [
            compared(
                utility(played, arm, row["trained"], row["domain"]),
                utility(played, self.floor, row["trained"], row["domain"]),
                self.seed,
            )["verdict"]
            == "exceeds"
            for row in away
        ]
        return f", and exceeds {self.floor} in {sum(above)} of {len(away)}"


_RULE = (
    f"{RULE} transfer loses where the difference to training at home has an interval below "
    f"0 and p (Holm) below {ALPHA:g}; a cell exceeds the arm that learnt nothing where the interval of its difference "
    "to that arm is above 0: this count is by intervals alone, without Holm's correction."
)
