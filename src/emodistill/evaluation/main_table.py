"""The main table: arms by domain, paired comparisons, what was left out, and the verdicts (METHOD 7)."""

from collections.abc import Mapping, Sequence
from typing import Any

from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import Perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.exclusions import exclusions
from emodistill.evaluation.report import (
    ALL,
    RIVALS,
    SUBJECT,
    build_report,
    cell,
    domains_of,
    plain,
    verdict_rule,
    verdicts,
)
from emodistill.evaluation.results import Findings, Played
from emodistill.evaluation.seeds import seed_tables
from emodistill.evaluation.statistics import ALPHA, FEW, POWER
from emodistill.reporting.table import Column, Table

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
    Column("slips", "slips", "text"),
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
_PHRASES = {"exceeds": "exceeds", "within noise": "is within noise of", "below": "is below"}


def by_arm(played: Sequence[Played]) -> dict[str, list[Episode]]:
    """Episodes of each arm, those of its training seeds together; a condition, where there is one, is in the name."""
    found: dict[str, list[Episode]] = {}
    for one in played:
        found.setdefault(f"{one.arm}, {one.condition}" if one.condition else one.arm, []).extend(one.episodes)
    return found


def main_report(
    played: Sequence[Played],
    perceiver: Perceiver,
    vocabulary: Vocabulary,
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
    seed: int = 0,
) -> dict[str, Any]:
    """What `report.json` holds of it: `build_report`, and `overall`, the cells of each arm over all domains."""
    arms = by_arm(played)
    report = build_report(arms, perceiver, vocabulary, seed, subject, rivals)
    wide = len(domains_of(arms)) > 1
    overall = [cell(arm, ALL, episodes, perceiver, vocabulary, seed) for arm, episodes in arms.items() if wide]
    return {**report, "overall": plain(overall)}


def main_findings(
    played: Sequence[Played],
    perceiver: Perceiver,
    vocabulary: Vocabulary,
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
    seed: int = 0,
) -> Findings:
    """Tables `arms`, `comparisons`, `exclusions` and, with several training seeds, those of `seed_tables`."""
    report = main_report(played, perceiver, vocabulary, subject, rivals, seed)
    return findings_of(report, played, subject, rivals, seed)


def findings_of(
    report: Mapping[str, Any],
    played: Sequence[Played],
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
    seed: int = 0,
) -> Findings:
    """The same from a report that `main_report` has made."""
    tables = [_arms(report), *([_comparisons(report)] if report["comparisons"] else [])]
    several = seed_tables(played, seed, subject)
    return Findings([*tables, *several, exclusions(played)], (), sentences(report, subject, rivals))


def _arms(report: Mapping[str, Any]) -> Table:
    rows = [_arm_row(row) for row in [*report["cells"], *report["overall"]]]
    rows.sort(key=lambda row: (row["domain"] == ALL, str(row["domain"])))
    note = (
        "Scenarios are the unit: 95 % intervals by bootstrap over scenarios, 10,000 resamples, with one failed "
        "scenario added for what was not seen. Appended: offers that were not in the words, of all turns of the arm. "
        "Slips: of the arm / of its counterparty."
    )
    return Table("arms", "Arms on unseen scenarios", _ARMS, rows, note)


def _arm_row(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["utility_ci"]
    return {
        **{key: value for key, value in row.items() if not isinstance(value, dict | list)},
        "low": low,
        "high": high,
        "utility_interval": [row["utility"], low, high],
        "success_interval": [row["success"], *row["success_ci"]],
        "appended": f"{row['offers_appended']}/{row['focal_turns']}",
        "slips": f"{sum(row['slips'].values())}/{sum(row['counterparty_slips'].values())}",
    }


def _comparisons(report: Mapping[str, Any]) -> Table:
    rows = []
    for row in report["comparisons"]:
        low, high = row["interval"]
        kept = {key: value for key, value in row.items() if key not in ("mean", "interval")}
        interval = [row["mean"], low, high]
        rows.append({**kept, "difference": row["mean"], "low": low, "high": high, "difference_interval": interval})
    title = f"Utility of {rows[0]['arm']} less that of each other arm, paired by scenario and seed"
    note = (
        f"p by flipping the signs of scenarios; Holm's correction over {report['family']}. Effect size: d_z of "
        f"scenario differences. Smallest detectable: the true difference that so many scenarios, as spread as these, "
        f"show with {100 * POWER:.0f} % power at {ALPHA:g}. The verdict takes both, the interval and p (Holm). All "
        "is about other scenarios and these trained weights; study=stability shows what another training changes."
    )
    if any(row["few"] for row in rows):
        note += f" With fewer than {FEW} scenarios a 95 % interval may hold only 87 % of the time."
    return Table("comparisons", title, _COMPARISONS, rows, note)


def sentences(report: Mapping[str, Any], subject: str = SUBJECT, rivals: Sequence[str] = RIVALS) -> list[str]:
    """One for each domain and one for all of them, after the rule; each says whether scenarios are few."""
    if not report["verdict"]:
        return []
    lines = [f"The rule, fixed before the numbers: {verdict_rule(subject, rivals)}."]
    together = verdicts(report["comparisons"], [ALL], rivals) if len(report["verdict"]) > 1 else {}
    for domain, verdict in {**report["verdict"], **together}.items():
        rows = [row for row in report["comparisons"] if row["domain"] == domain and row["against"] in rivals]
        where = "all domains together" if domain == ALL else domain
        lines.append(f"{where}: {_phrase(subject, rows, verdict)}{_remark(rows)}.")
    return lines


def _phrase(subject: str, rows: Sequence[Mapping[str, Any]], verdict: str) -> str:
    """What the subject is to each rival; with the verdict before it, where that is not the same for all of them."""
    names = {single: [row["against"] for row in rows if row["verdict"] == single] for single in _PHRASES}
    parts = [f"{_PHRASES[single]} {_listed(rivals)}" for single, rivals in names.items() if rivals]
    sentence = f"{subject} {_listed(parts)}"
    return sentence if len(parts) == 1 else f"{verdict}: {sentence}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _remark(rows: Sequence[Mapping[str, Any]]) -> str:
    fewest = min(row["scenarios"] for row in rows)
    counted = f"{fewest} scenario{'' if fewest == 1 else 's'}"
    return f" ({counted}: fewer than the {FEW} from which the intervals hold as they say)" if fewest < FEW else ""
