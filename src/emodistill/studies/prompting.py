"""Does a constant emotion shift outcomes at all, and which one does? Every label held against `neutral`.

The overall test asks whether the means of the emotions differ by more than chance: under the null hypothesis the labels
of one scenario's episodes are exchangeable, so they are shuffled within every scenario (10,000 times).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emodistill.evaluation.arms import EMOTION_SOURCES
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import ALPHA, Key, correct
from emodistill.reporting.figures.matrix import matrix
from emodistill.reporting.results import RULE, AnalysisResult
from emodistill.reporting.tables import Column, Table
from emodistill.studies.comparisons import COMPARED, arms_of, compared, domains_of, utility

SHUFFLES = 10_000
_OVERALL = [
    Column("domain", "domain", "text"),
    Column("emotions", "emotions", "count"),
    Column("scenarios", "scenarios", "count"),
    Column("spread", "spread between emotions (SD)", digits=3),
    Column("chance", "SD expected by chance", digits=3),
    Column("p_value", "p", digits=4),
    Column("p_holm", "p (Holm)", digits=4),
]


@dataclass(frozen=True)
class Prompting:
    """Every constant emotion against a reference emotion, by domain.

    Attributes:
        reference: the label that the others are compared with.
        seed: of intervals and permutations.
    """

    reference: str = "neutral"
    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        arms: dict[str, str] = {}
        for arm, label in ((arm, _label(arm)) for arm in arms_of(played)):
            if label and arms.setdefault(label, arm) != arm:
                twice = f"'{arms[label]}' and '{arm}' both show '{label}' all the time, and only the emotion may differ"
                return AnalysisResult(verdicts=[f"{twice}; play one of them"])
        if self.reference not in arms:
            return AnalysisResult(
                verdicts=[f"no arm shows '{self.reference}' all the time, so nothing can be compared"]
            )
        domains = domains_of(played)
        found = {d: {label: utility(played, arm, domain=d) for label, arm in arms.items()} for d in domains}
        rows = [
            {"domain": d, "emotion": label, **compared(values, found[d][self.reference], self.seed)}
            for d in domains
            for label, values in found[d].items()
            if label != self.reference
        ]
        correct(rows)
        rows.sort(key=lambda row: (str(row["domain"]), -row["difference"]))
        overall = [{"domain": d, **overall_test(found[d], self.seed)} for d in domains]
        correct(overall)
        tables = [
            Table("emotions_overall", "Do emotions differ at all?", _OVERALL, overall, _OVERALL_NOTE),
            Table("emotions", f"Each emotion held constant, minus {self.reference}", _COLUMNS, rows, _note(rows)),
        ]
        summary = replace(tables[0], note="")
        return AnalysisResult(tables, [self._map(rows, domains)], self._verdicts(rows, overall), summary=summary)

    def _map(self, rows: Sequence[Mapping[str, Any]], domains: Sequence[str]) -> Any:
        cells = {(row["emotion"], row["domain"]): row["difference"] for row in rows}
        mean = {e: np.mean([cells[e, d] for d in domains]) for e, _ in cells}
        labels = sorted(mean, key=lambda label: -mean[label])
        values = [[cells[label, domain] for domain in domains] for label in labels]
        axes = ("emotion", "domain", f"utility minus {self.reference}'s")
        return matrix("emotions", "What each constant emotion changes", labels, domains, values, axes, 0.0)

    def _verdicts(self, rows: Sequence[Mapping[str, Any]], overall: Sequence[Mapping[str, Any]]) -> list[str]:
        lines = [
            f"{RULE} emotions shift outcomes in a domain where the permutation test over "
            f"all labels has p (Holm) below {ALPHA:g}; one label does where its own difference to {self.reference} has."
        ]
        for row in overall:
            shifts = "shift outcomes" if row["p_holm"] < ALPHA else "do not shift outcomes beyond chance"
            clear = [r for r in rows if r["domain"] == row["domain"] and r["p_holm"] < ALPHA]
            named = [f"{r['emotion']} {r['difference']:+.2f}" for r in clear]
            which = f"; clearly apart from {self.reference}: {', '.join(named) or 'none'}"
            lines.append(f"{row['domain']}: constant emotions {shifts} (p {row['p_holm']:.4f}){which}.")
        return lines


_COLUMNS = [Column("domain", "domain", "text"), Column("emotion", "emotion", "text"), *COMPARED]
_OVERALL_NOTE = "By shuffling the labels within each scenario, 10,000 times; Holm's correction over the domains."


def _note(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"Paired by scenario and seed; Holm's correction over all {len(rows)} comparisons of this table."


def _label(arm: str) -> str | None:
    """The constant emotion of an arm (`joy+base`, `fixed:joy`); None for arms that choose, or show none."""
    arm = re.split("[#@]", arm, maxsplit=1)[0]
    head, plus, _ = arm.partition("+")
    if plus:
        return None if head in EMOTION_SOURCES or "." in head else head  # a dot: a selector's import path
    kind, colon, label = arm.partition(":")
    return label if colon and kind.endswith("fixed") else None


def overall_test(found: Mapping[str, Mapping[Key, float]], seed: int = 0, shuffles: int = SHUFFLES) -> dict[str, Any]:
    """Standard deviation between the means of the emotions, what chance makes of it, and its permutation p-value.

    Args:
        found: emotion -> utility by (domain, scenario, seed); what one emotion lacks is left out for all.
    """
    keys = sorted(set.intersection(*(set(values) for values in found.values())))
    scenarios = list(dict.fromkeys(key[:2] for key in keys))
    table = np.array(
        [[np.mean([values[k] for k in keys if k[:2] == s]) for values in found.values()] for s in scenarios]
    )  # (S, E)
    if not len(table):
        return {"emotions": len(found), "scenarios": 0} | dict.fromkeys(("spread", "chance", "p_value"), float("nan"))
    rng = np.random.default_rng(seed)
    spread = float(table.mean(0).std())
    null = np.array([rng.permuted(table, axis=1).mean(0).std() for _ in range(shuffles)])
    p = float((1 + (null >= spread - 1e-12).sum()) / (1 + shuffles))
    counted = {"emotions": len(found), "scenarios": len(scenarios)}
    return {**counted, "spread": spread, "chance": float(null.mean()), "p_value": p}
