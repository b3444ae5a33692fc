"""Conditions against one of them: generalisation gaps (counterparties), and what a setting changes (sensitivity).

Different personas or models make different episodes of the same scenario and seed, so pairs are by both all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import ALPHA, NOISE, correct
from emodistill.reporting.figures.intervals import Estimate, interval_plot
from emodistill.reporting.results import RULE, AnalysisResult
from emodistill.reporting.tables import Column, Table
from emodistill.studies.comparisons import (
    COMPARED,
    POOLED,
    arms_of,
    compared,
    conditions_of,
    domains_of,
    mean_interval,
    utility,
)

_VALUES = [
    Column("domain", "domain", "text"),
    Column("arm", "arm", "text"),
    Column("condition", "condition", "text"),
    Column("utility_interval", "utility [95 %]", "interval", 3),
    *COMPARED,
]


@dataclass(frozen=True)
class Contrast:
    """Every condition minus a reference condition, by arm and domain.

    Attributes:
        reference: label of the condition that the others are compared with.
        title: of the table.
        floor: an arm; its own difference is taken off, so that what is left is the arm's and not the condition's.
    """

    reference: str
    title: str
    floor: str | None = None
    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        found = conditions_of(played)
        if self.reference not in found:
            return AnalysisResult(
                verdicts=[f"the condition '{self.reference}' was not played; nothing can be compared"]
            )
        domains = domains_of(played)
        domains = [*(domains if len(domains) > 1 else []), POOLED]  # twice the same test would double Holm's p
        rows = [
            self._row(played, domain, arm, condition) for domain in domains for arm in arms_of(played)
            for condition in found
        ]  # fmt: skip
        correct(rows)
        note = f"Difference: minus {self.reference}, paired by scenario and seed; Holm's correction over this table."
        estimates = [Estimate(r["arm"], r["condition"], *r["utility_interval"]) for r in rows if r["domain"] == POOLED]
        figure = interval_plot("conditions", self.title, estimates, "mean utility over all domains, 95 % interval")
        table = Table("conditions", self.title, _VALUES, rows, note)
        pooled = [row for row in rows if row["domain"] == POOLED]
        summary = Table("summary", self.title, _VALUES[1:5], pooled)
        return AnalysisResult([table], [figure], self._verdicts(played, rows), summary=summary)

    def _row(self, played: Sequence[ArmResult], domain: str, arm: str, condition: str) -> dict[str, Any]:
        here = utility(played, arm, condition, domain)
        same = condition == self.reference
        apart = {"p_value": float("nan")} if same else compared(here, self._base(played, arm, domain), self.seed)
        interval = [*mean_interval(here, self.seed)]
        return {"domain": domain, "arm": arm, "condition": condition, "utility_interval": interval, **apart}

    def _base(self, played: Sequence[ArmResult], arm: str, domain: str) -> dict[Any, float]:
        return utility(played, arm, self.reference, domain)

    def _verdicts(self, played: Sequence[ArmResult], rows: Sequence[dict[str, Any]]) -> list[str]:
        lines = [
            f"{RULE} a condition differs from {self.reference} where the interval over "
            f"all domains leaves out 0 and p (Holm) is below {ALPHA:g}."
        ]
        for row in rows:
            if row["domain"] == POOLED and row["condition"] != self.reference:
                phrase = {"exceeds": "better", "below": "worse", NOISE: NOISE}[row["verdict"]]
                mean, low, high = row["difference_interval"]
                gap = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
                lines.append(f"{row['arm']}, {row['condition']}: {phrase} ({gap}){self._beside_floor(played, row)}.")
        return lines

    def _beside_floor(self, played: Sequence[ArmResult], row: dict[str, Any]) -> str:
        """The gap beyond that of the arm that learnt nothing: a harder opponent is no failure to generalise.

        It has no verdict, because Holm's correction does not cover it.
        """
        if self.floor not in arms_of(played) or row["arm"] == self.floor:
            return ""
        lead = {c: self._lead(played, row["arm"], c) for c in (row["condition"], self.reference)}
        found = compared(lead[row["condition"]], lead[self.reference], self.seed)
        mean, low, high = found["difference_interval"]
        return f"; its lead over {self.floor} changes by {mean:+.3f} [{low:+.3f}, {high:+.3f}]"

    def _lead(self, played: Sequence[ArmResult], arm: str, condition: str) -> dict[Any, float]:
        own, floor = utility(played, arm, condition), utility(played, self.floor, condition)
        return {key: own[key] - floor[key] for key in own.keys() & floor.keys()}
