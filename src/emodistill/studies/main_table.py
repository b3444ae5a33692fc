"""The main table: arms by domain, paired comparisons of one arm with all others, and the verdicts.

The rule of the verdict, fixed before any number: the subject **exceeds** a rival where the 95 % interval of its
paired difference of utility lies above 0 and p after Holm's correction over all comparisons of the table is below
.05, and is **below** it where the interval lies below 0 and p likewise. In a domain it exceeds where it exceeds every
rival, is below where it is below one of them, and else is **within noise**. So an arm that is played twice under two
names is told apart from itself in at most one table of twenty. Where a rival was not played there is no verdict. In
`study=main` the subject is `emodistill`, and its rivals are `vanilla` and `iql`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import Perceiver, load_perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.metrics import episode_metrics, valid
from emodistill.evaluation.results import ArmResult, distinct
from emodistill.evaluation.statistics import (
    ALPHA,
    FEW,
    NOISE,
    POWER,
    bootstrap_interval,
    correct,
    paired_difference,
    utilities,
)
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Side
from emodistill.reporting.figures.intervals import differences
from emodistill.reporting.results import RULE, AnalysisResult, plain
from emodistill.reporting.tables import Column, Table
from emodistill.studies.comparisons import domains_of
from emodistill.studies.training_seeds import seed_tables

SUBJECT, RIVALS = "emodistill", ("vanilla", "iql")
ALL = "all"  # the rows over all domains together
FAITHFUL = "Faithful: as the perceiver 'counterparty' reads it, which trained neither selector nor policy."


@dataclass(frozen=True)
class MainTable:
    """Tables `arms`, `comparisons` and, with several training seeds, those of `seed_tables`.

    Attributes:
        vocabulary: of the run.
        subject: the arm that the verdict is about.
        rivals: the arms that it has to exceed.
    """

    vocabulary: Vocabulary
    subject: str = SUBJECT
    rivals: Sequence[str] = RIVALS
    seed: int = 0

    def __call__(self, results: Sequence[ArmResult]) -> AnalysisResult:
        perceiver = load_perceiver("counterparty")
        values = main_values(results, perceiver, self.vocabulary, self.subject, self.rivals, self.seed)
        return result_of(values, results, self.subject, self.rivals, self.seed)


@dataclass(frozen=True)
class ArmsTable:
    """Table `arms` alone; the episodes of all training seeds of an arm together."""

    vocabulary: Vocabulary
    seed: int = 0

    def __call__(self, results: Sequence[ArmResult]) -> AnalysisResult:
        values = arm_values(results, load_perceiver("counterparty"), self.vocabulary, self.seed)
        return AnalysisResult([_arms(plain(values))])


def result_of(
    values: Mapping[str, Any],
    results: Sequence[ArmResult],
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
    seed: int = 0,
) -> AnalysisResult:
    """What `main_values` says, in tables, figures and sentences."""
    arms, comparisons = _arms(values), _comparisons(values) if values["comparisons"] else None
    tables = [arms, *([comparisons] if comparisons else []), *seed_tables(results, seed, subject)]
    figure = differences(comparisons.rows, comparisons.title) if comparisons else None
    return AnalysisResult(
        tables,
        [figure] if figure else [],
        sentences(values, subject, rivals),
        answer(values, subject, rivals),
        subject if values["verdict"] else "",
        summary=_summary(arms),
        values=values,
    )


def main_values(
    results: Sequence[ArmResult],
    perceiver: Perceiver,
    vocabulary: Vocabulary,
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
    seed: int = 0,
) -> dict[str, Any]:
    """What `report.json` holds of the main table, in plain JSON values (nan becomes None).

    `cells` are the arms by domain, `overall` over all domains where there are several; `comparisons`, the `family` of
    tests that they are corrected for, the `verdict` for each domain, and its rule.
    """
    arms, domains = by_arm(results), domains_of(results)
    comparisons = compare(arms, domains, seed, subject) if arms else []
    values: dict[str, Any] = plain(
        {
            "comparisons": comparisons,
            "family": family(comparisons),
            "verdict": verdicts(comparisons, domains, rivals) if subject in arms else {},
            "verdict_rule": verdict_rule(subject, rivals),
            **arm_values(results, perceiver, vocabulary, seed),
        }
    )
    return values


def arm_values(
    results: Sequence[ArmResult], perceiver: Perceiver, vocabulary: Vocabulary, seed: int = 0
) -> dict[str, Any]:
    """Rows of arms: `cells` by domain, and `overall` over all domains where there are several."""
    arms, domains = by_arm(results), domains_of(results)
    cells = [
        cell(arm, domain, [e for e in episodes if e.scenario.domain == domain], perceiver, vocabulary, seed)
        for arm, episodes in arms.items()
        for domain in domains
    ]
    wide = len(domains) > 1
    return {
        "cells": cells,
        "overall": [cell(arm, ALL, of, perceiver, vocabulary, seed) for arm, of in arms.items() if wide],
    }


def by_arm(results: Sequence[ArmResult]) -> dict[str, list[Episode]]:
    """Episodes of each arm, those of its training seeds together; a condition, where there is one, is in the name."""
    found: dict[str, list[Episode]] = {}
    for one in distinct(results):
        found.setdefault(f"{one.arm}, {one.condition}" if one.condition else one.arm, []).extend(one.episodes)
    return found


def cell(
    arm: str, domain: str, episodes: Sequence[Episode], perceiver: Perceiver, vocabulary: Vocabulary, seed: int
) -> dict[str, Any]:
    """One row of the table."""
    metrics = episode_metrics(perceiver, vocabulary)
    metrics.update(episodes)
    counted = valid(episodes)
    appended = sum(turn.offer_appended for episode in counted for turn in episode.focal_turns)
    return {
        "arm": arm,
        "domain": domain,
        "episodes": len(episodes),
        "invalid": len(episodes) - len(counted),
        "scenarios": len({(e.scenario.domain, e.scenario.id) for e in counted}),
        **{name: float(value) for name, value in metrics.compute().items()},
        "utility_ci": list(_share_interval(counted, [e.utility for e in counted], seed)),
        "success_ci": list(_share_interval(counted, [float(e.end == "deal") for e in counted], seed)),
        "offers_appended": appended,
        "role_violations": role_violations(episodes, FOCAL),
        "counterparty_role_violations": role_violations(episodes, COUNTERPARTY),
        "focal_turns": sum(len(episode.focal_turns) for episode in counted),
    }


def _share_interval(episodes: Sequence[Episode], values: Sequence[float], seed: int) -> tuple[float, float]:
    return bootstrap_interval(values, [(e.scenario.domain, e.scenario.id) for e in episodes], seed, unseen=0.0)


def role_violations(episodes: Sequence[Episode], side: Side) -> dict[str, int]:
    """Attempts of a side that were out of role, by kind."""
    turns = [turn for episode in episodes for turn in episode.turns if turn.speaker == side]
    return dict(sorted(Counter(kind for turn in turns for kind in turn.role_violations).items()))


def compare(
    arms: Mapping[str, Sequence[Episode]], domains: Sequence[str], seed: int, subject: str = SUBJECT
) -> list[dict[str, Any]]:
    """One arm against every other, paired by (scenario, seed), in each domain and, of several, in all of them together.

    The one is `subject`, or the arm named last where it was not played. Holm's correction is over all of these rows.
    """
    subject = subject if subject in arms else list(arms)[-1]
    known = {arm: utilities(episodes) for arm, episodes in arms.items()}
    rows: list[dict[str, Any]] = []
    for domain in [*domains, *([ALL] if len(domains) > 1 else [])]:  # twice the same test would double Holm's p
        chosen = {
            arm: {key: value for key, value in values.items() if domain in (ALL, key[0])}
            for arm, values in known.items()
        }
        for rival in (arm for arm in arms if arm != subject):
            found = paired_difference(chosen[subject], chosen[rival], seed)
            row = {"arm": subject, "against": rival, "domain": domain, **asdict(found), "verdict": found.verdict}
            rows.append({**row, "few": found.scenarios < FEW})
    correct(rows)
    return rows


def family(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Which tests Holm's correction is over, in words."""
    tests = sum(not math.isnan(row["p_value"]) for row in comparisons)
    if not tests:
        return "no comparison could be tested"
    rivals = ", ".join(dict.fromkeys(row["against"] for row in comparisons))
    domains = ", ".join(dict.fromkeys(row["domain"] for row in comparisons))
    return f"{tests} test{'s' * (tests > 1)}: {comparisons[0]['arm']} against {rivals}, each in {domains}"


def verdicts(
    comparisons: Sequence[Mapping[str, Any]], domains: Sequence[str], rivals: Sequence[str] = RIVALS
) -> dict[str, str]:
    """The rule at the head of this module, for each domain."""
    result: dict[str, str] = {}
    for domain in domains:
        found = {row["against"]: row["verdict"] for row in comparisons if row["domain"] == domain}
        if rivals and all(rival in found for rival in rivals):
            single = [found[rival] for rival in rivals]
            result[domain] = "below" if "below" in single else "exceeds" if set(single) == {"exceeds"} else NOISE
    return result


def verdict_rule(subject: str = SUBJECT, rivals: Sequence[str] = RIVALS) -> str:
    """The rule in words, to be printed with the verdicts."""
    each = " and above ".join(rivals) if len(rivals) < 3 else f"each of {', '.join(rivals)}"
    bounds = "both intervals" if len(rivals) == 2 else "every interval" if len(rivals) > 2 else "the interval"
    below = "one interval" if len(rivals) > 1 else "the interval"
    return (
        f"{subject} exceeds: utility above {each}, {bounds} above 0; below: {below} below 0; each with p after Holm's "
        f"correction over all comparisons below {ALPHA:g}; else within noise"
    )


_ARMS = [
    Column("domain", "domain", "text"),
    Column("arm", "arm", "text"),
    Column("episodes", "episodes", "count"),
    Column("invalid", "invalid", "count"),
    Column("scenarios", "scenarios", "count"),
    Column("success_interval", "success [95 %]", "interval"),
    Column("outcome", "outcome"),
    Column("utility_interval", "utility [95 %]", "interval"),
    Column("rounds", "rounds", digits=1),
    Column("faithfulness", "faithful"),
    Column("appended", "appended", "text"),
    Column("role_violations", "role violations", "text"),
]
_COMPARISONS = [
    Column("domain", "domain", "text"),
    Column("against", "against", "text"),
    Column("difference_interval", "difference [95 %]", "interval"),
    Column("effect_size", "effect size"),
    Column("p_value", "p", digits=3),
    Column("p_holm", "p (Holm)", digits=3),
    Column("detectable", "smallest detectable"),
    Column("pairs", "pairs", "count"),
    Column("scenarios", "scenarios", "count"),
    Column("verdict", "verdict", "text"),
]


def _arms(values: Mapping[str, Any]) -> Table:
    rows = [_arm_row(row) for row in [*values["cells"], *values["overall"]]]
    rows.sort(key=lambda row: (row["domain"] == ALL, str(row["domain"])))
    note = (
        "Scenarios are the unit: 95 % intervals by bootstrap over scenarios, 10,000 resamples, with one failed "
        f"scenario added for what was not seen. {FAITHFUL} Appended: offers and acceptances that were not in the "
        "words, of all turns of the arm. Role violations: of the arm / of its counterparty."
    )
    return Table("arms", "Arms on unseen scenarios", _ARMS, rows, note)


def _arm_row(row: Mapping[str, Any]) -> dict[str, Any]:
    def total(violations: Mapping[str, int]) -> int:
        return sum(violations.values())

    low, high = row["utility_ci"]
    return {
        **{key: value for key, value in row.items() if not isinstance(value, dict | list)},
        "low": low,
        "high": high,
        "utility_interval": [row["utility"], low, high],
        "success_interval": [row["success"], *row["success_ci"]],
        "appended": f"{row['offers_appended']}/{row['focal_turns']}",
        "role_violations": f"{total(row['role_violations'])}/{total(row['counterparty_role_violations'])}",
    }


def _summary(arms: Table) -> Table:
    """A row for each arm, over all domains."""
    last = arms.rows[-1]["domain"] if arms.rows else ALL
    rows = [row for row in arms.rows if row["domain"] == last]
    keys = ("arm", "episodes", "success_interval", "utility_interval", "rounds", "faithfulness")
    where = "all domains" if last == ALL else last
    return Table("summary", f"Arms on unseen scenarios, {where}", [c for c in _ARMS if c.key in keys], rows)


def _comparisons(values: Mapping[str, Any]) -> Table:
    rows = []
    for row in values["comparisons"]:
        low, high = row["interval"]
        kept = {key: value for key, value in row.items() if key not in ("mean", "interval")}
        interval = [row["mean"], low, high]
        rows.append({**kept, "difference": row["mean"], "low": low, "high": high, "difference_interval": interval})
    title = f"Utility of {rows[0]['arm']} minus that of each other arm, paired by scenario and seed"
    note = (
        f"p by flipping the signs of scenarios; Holm's correction over {values['family']}. Effect size: d_z of "
        f"scenario differences. Smallest detectable: the true difference that so many scenarios, as spread as these, "
        f"show with {100 * POWER:.0f} % power at {ALPHA:g}. The verdict takes both, the interval and p (Holm). All "
        "is about other scenarios and these trained weights; study=stability shows what another training seed changes."
    )
    if any(row["few"] for row in rows):
        note += f" With fewer than {FEW} scenarios a 95 % interval may hold only 87 % of the time."
    return Table("comparisons", title, _COMPARISONS, rows, note)


_PHRASES = {"exceeds": "exceeds", "within noise": "is within noise of", "below": "is below"}


def sentences(values: Mapping[str, Any], subject: str = SUBJECT, rivals: Sequence[str] = RIVALS) -> list[str]:
    """One for each domain and one for all of them, after the rule; each says whether scenarios are few."""
    if not values["verdict"]:
        return []
    lines = [f"{RULE} {verdict_rule(subject, rivals)}."]
    together = verdicts(values["comparisons"], [ALL], rivals) if len(values["verdict"]) > 1 else {}
    for domain, verdict in {**values["verdict"], **together}.items():
        rows = [row for row in values["comparisons"] if row["domain"] == domain and row["against"] in rivals]
        where = "all domains together" if domain == ALL else domain
        lines.append(f"{where}: {_phrase(subject, rows, verdict)}{_remark(rows)}.")
    return lines


def answer(values: Mapping[str, Any], subject: str = SUBJECT, rivals: Sequence[str] = RIVALS) -> str:
    """One sentence over all domains: where the subject stands, and its difference to the strongest rival."""
    if not values["verdict"]:
        return ""
    domains = list(values["verdict"])
    domain, where = (domains[0], f"In {domains[0]}") if len(domains) == 1 else (ALL, f"Over all {len(domains)} domains")
    rows = [row for row in values["comparisons"] if row["domain"] == domain and row["against"] in rivals]
    known = [row for row in rows if None not in (row["mean"], *row["interval"])]
    sentence = f"{where} {_standing(subject, rows)}"
    if known:
        strongest = min(known, key=lambda row: float(row["mean"]))
        low, high = strongest["interval"]
        among = ", the strongest of them," if len(rows) > 1 else ""
        sentence += f": its paired difference of utility to {strongest['against']}{among} is "
        sentence += f"{strongest['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"{sentence}{_remark(rows)}."


def _phrase(subject: str, rows: Sequence[Mapping[str, Any]], verdict: str) -> str:
    """What the subject is to each rival; with the verdict before it, where that is not the same for all of them."""
    sentence = _standing(subject, rows)
    return sentence if len({row["verdict"] for row in rows}) == 1 else f"{verdict}: {sentence}"


def _standing(subject: str, rows: Sequence[Mapping[str, Any]]) -> str:
    names = {single: [row["against"] for row in rows if row["verdict"] == single] for single in _PHRASES}
    parts = [f"{_PHRASES[single]} {_listed(rivals)}" for single, rivals in names.items() if rivals]
    return f"{subject} {_listed(parts)}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _remark(rows: Sequence[Mapping[str, Any]]) -> str:
    fewest = min(row["scenarios"] for row in rows)
    counted = f"{fewest} scenario{'' if fewest == 1 else 's'}"
    return f" ({counted}: fewer than the {FEW} from which the intervals hold as they say)" if fewest < FEW else ""
