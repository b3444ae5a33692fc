"""The main table as an analysis, and how the arms behave."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import Perceiver, load_perceiver
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.evaluation.metrics import episode_metrics, valid
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import (
    ALPHA,
    FEW,
    NOISE,
    POWER,
    Key,
    bootstrap_interval,
    correct,
    key_of,
    paired_difference,
    utilities,
)
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Side
from emodistill.reporting.figures.episodes import emotion_use, offer_trajectories
from emodistill.reporting.figures.intervals import differences
from emodistill.reporting.results import AnalysisResult, plain
from emodistill.reporting.tables import Column, Figure, Table
from emodistill.studies.expression_readings import readings
from emodistill.studies.safety import analyse_safety, guard_curve
from emodistill.studies.training_seeds import seed_tables

# ---- report ----
# From played episodes to the content of `report.json`: cells, comparisons and a verdict for each domain.
#
# The rule of the verdict, fixed before any number: the subject **exceeds** a rival where the 95 % interval of its paired
# difference of utility lies above 0 and p after Holm's correction over all comparisons of the report is below .05, and is
# **below** it where the interval lies below 0 and p likewise; in a domain it exceeds where it exceeds every rival, is
# below where it is below one of them, and else is **within noise**. An arm played twice under two names is then told
# apart from itself in at most one report of twenty. Rivals that were not played leave the verdict out. In the main table
# the subject is `emodistill`, its rivals are `vanilla` and `iql`.

SUBJECT, RIVALS = "emodistill", ("vanilla", "iql")
ALL = "all"
Arms = Mapping[str, Sequence[Episode]]  # arm -> episodes, those of all training seeds together


def verdict_rule(subject: str = SUBJECT, rivals: Sequence[str] = RIVALS) -> str:
    """The rule in words, to be printed with the verdicts."""
    each = " and above ".join(rivals) if len(rivals) < 3 else f"each of {', '.join(rivals)}"
    bounds = "both intervals" if len(rivals) == 2 else "every interval" if len(rivals) > 2 else "the interval"
    below = "one interval" if len(rivals) > 1 else "the interval"
    return (
        f"{subject} exceeds: utility above {each}, {bounds} above 0; below: {below} below 0; each with p after Holm's "
        f"correction over all comparisons below {ALPHA:g}; else within noise"
    )


def build_report(
    played: Arms,
    perceiver: Perceiver,
    vocabulary: Vocabulary,
    seed: int,
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
) -> dict[str, Any]:
    """Cells (arm x domain), paired comparisons and verdicts, in plain JSON values (nan becomes None)."""
    domains = domains_in(played)
    cells = [
        cell(arm, domain, [e for e in episodes if e.scenario.domain == domain], perceiver, vocabulary, seed)
        for arm, episodes in played.items()
        for domain in domains
    ]
    comparisons = compare(played, domains, seed, subject)
    report: dict[str, Any] = plain(
        {
            "cells": cells,
            "comparisons": comparisons,
            "family": family(comparisons),
            "verdict": verdicts(comparisons, domains, rivals) if subject in played else {},
            "verdict_rule": verdict_rule(subject, rivals),
        }
    )
    return report


def domains_in(played: Arms) -> list[str]:
    return sorted({episode.scenario.domain for episodes in played.values() for episode in episodes})


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
    """Role violations in the attempts of a side, by kind."""
    found = Counter(
        kind for episode in episodes for turn in episode.turns if turn.speaker == side for kind in turn.role_violations
    )
    return dict(sorted(found.items()))


def compare(played: Arms, domains: Sequence[str], seed: int, subject: str = SUBJECT) -> list[dict[str, Any]]:
    """One arm against every other, paired by (scenario, seed), in each domain and in all of them together.

    The one is `subject`, or the arm named last where it was not played. Holm's correction is over all of these rows.
    """
    subject = subject if subject in played else list(played)[-1]
    known = {arm: utilities(episodes) for arm, episodes in played.items()}
    rows: list[dict[str, Any]] = []
    for domain in [*domains, ALL]:
        chosen = {
            arm: {key: value for key, value in values.items() if domain in (ALL, key[0])}
            for arm, values in known.items()
        }
        for rival in (arm for arm in played if arm != subject):
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
    return f"{tests} tests: {comparisons[0]['arm']} against {rivals}, each in {domains}"


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


# ---- exclusions ----
# What the comparisons leave out, and why: a table that a referee can check row by row.

_COLUMNS = [
    Column("arm", "arm", "text"),
    Column("condition", "condition", "text"),
    Column("training_seed", "training seed", "count"),
    Column("domain", "domain", "text"),
    Column("scenario", "scenario", "text"),
    Column("seed", "seed", "count"),
    Column("why", "why", "text"),
]


def exclusions(played: Sequence[ArmResult]) -> Table:
    """Invalid episodes with their fault, and episodes that others played and an arm did not; empty where all pair."""
    everything = {key_of(episode) for one in played for episode in one.episodes}
    rows = [row for one in played for row in _of(one, everything)]
    shown = [column for column in _COLUMNS if column.key != "condition" or any(one.condition for one in played)]
    note = f"{len(rows)} of {len(played) * len(everything)} episodes are left out." if rows else "Nothing was left out."
    return Table("exclusions", "What was left out, and why", shown, rows, note)


def _of(played: ArmResult, everything: set[Key]) -> list[dict[str, object]]:
    """One arm's rows, by (domain, scenario, seed)."""
    about = {"arm": played.arm, "condition": played.condition, "training_seed": played.training_seed}
    reasons = {
        key_of(episode): f"invalid: {episode.fault or 'no reason was recorded'}"
        for episode in played.episodes
        if episode.end == "invalid"
    }
    missing = everything - {key_of(episode) for episode in played.episodes}
    reasons |= dict.fromkeys(missing, "not played by this arm: its partners in other arms have no pair")
    return [
        {**about, "domain": domain, "scenario": scenario, "seed": seed, "why": reasons[domain, scenario, seed]}
        for domain, scenario, seed in sorted(reasons)
    ]


# ---- main_table ----
# The main table: arms by domain, paired comparisons, what was left out, and the verdicts (METHOD 7).

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
_PHRASES = {"exceeds": "exceeds", "within noise": "is within noise of", "below": "is below"}


def by_arm(played: Sequence[ArmResult]) -> dict[str, list[Episode]]:
    """Episodes of each arm, those of its training seeds together; a condition, where there is one, is in the name."""
    found: dict[str, list[Episode]] = {}
    for one in played:
        found.setdefault(f"{one.arm}, {one.condition}" if one.condition else one.arm, []).extend(one.episodes)
    return found


def main_report(
    played: Sequence[ArmResult],
    perceiver: Perceiver,
    vocabulary: Vocabulary,
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
    seed: int = 0,
) -> dict[str, Any]:
    """What `report.json` holds of it: `build_report`, and `overall`, the cells of each arm over all domains."""
    arms = by_arm(played)
    report = build_report(arms, perceiver, vocabulary, seed, subject, rivals)
    wide = len(domains_in(arms)) > 1
    overall = [cell(arm, ALL, episodes, perceiver, vocabulary, seed) for arm, episodes in arms.items() if wide]
    return {**report, "overall": plain(overall)}


def analyse_main(
    played: Sequence[ArmResult],
    perceiver: Perceiver,
    vocabulary: Vocabulary,
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
    seed: int = 0,
) -> AnalysisResult:
    """Tables `arms`, `comparisons`, `exclusions` and, with several training seeds, those of `seed_tables`."""
    report = main_report(played, perceiver, vocabulary, subject, rivals, seed)
    return result_of(report, played, subject, rivals, seed)


def result_of(
    report: Mapping[str, Any],
    played: Sequence[ArmResult],
    subject: str = SUBJECT,
    rivals: Sequence[str] = RIVALS,
    seed: int = 0,
) -> AnalysisResult:
    """The same from a report that `main_report` has made."""
    tables = [_arms(report), *([_comparisons(report)] if report["comparisons"] else [])]
    several = seed_tables(played, seed, subject)
    return AnalysisResult(
        [*tables, *several, exclusions(played)],
        (),
        sentences(report, subject, rivals),
        answer(report, subject, rivals),
        subject if report["verdict"] else "",
        values=report,
    )


def _arms(report: Mapping[str, Any]) -> Table:
    rows = [_arm_row(row) for row in [*report["cells"], *report["overall"]]]
    rows.sort(key=lambda row: (row["domain"] == ALL, str(row["domain"])))
    note = (
        "Scenarios are the unit: 95 % intervals by bootstrap over scenarios, 10,000 resamples, with one failed "
        "scenario added for what was not seen. Appended: offers that were not in the words, of all turns of the arm. "
        "Role violations: of the arm / of its counterparty."
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
        "role_violations": "/".join(str(sum(row[f"{side}role_violations"].values())) for side in ("", "counterparty_")),
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


def answer(report: Mapping[str, Any], subject: str = SUBJECT, rivals: Sequence[str] = RIVALS) -> str:
    """One sentence over all domains: where the subject stands, and its difference to the strongest rival."""
    if not report["verdict"]:
        return ""
    domains = list(report["verdict"])
    domain, where = (domains[0], f"In {domains[0]}") if len(domains) == 1 else (ALL, f"Over all {len(domains)} domains")
    rows = [row for row in report["comparisons"] if row["domain"] == domain and row["against"] in rivals]
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
    return (
        f"{subject} {_listed([f'{_PHRASES[single]} {_listed(rivals)}' for single, rivals in names.items() if rivals])}"
    )


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _remark(rows: Sequence[Mapping[str, Any]]) -> str:
    fewest = min(row["scenarios"] for row in rows)
    counted = f"{fewest} scenario{'' if fewest == 1 else 's'}"
    return f" ({counted}: fewer than the {FEW} from which the intervals hold as they say)" if fewest < FEW else ""


@dataclass(frozen=True)
class MainTable:
    """Arms by domain, paired comparisons of one arm with all others, exclusions, and the verdicts.

    Attributes:
        vocabulary: its name.
        subject: the arm that the verdict is about.
        rivals: the arms that it has to exceed.
    """

    vocabulary: str
    subject: str = SUBJECT
    rivals: Sequence[str] = RIVALS
    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        perceiver, vocabulary = load_perceiver("counterparty"), load_vocabulary(self.vocabulary)
        found = analyse_main(played, perceiver, vocabulary, self.subject, self.rivals, self.seed)
        return replace(found, figures=_differences(found))


@dataclass(frozen=True)
class Behaviour:
    """Emotions and offers over the rounds, and what the emotions are read as, by arm."""

    vocabulary: str

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        vocabulary = load_vocabulary(self.vocabulary)
        figures = [emotion_use(played, vocabulary), offer_trajectories(played)]
        table = readings(played, load_perceiver("counterparty"), vocabulary)
        return AnalysisResult([table] if table.rows else [], [figure for figure in figures if figure is not None])


@dataclass(frozen=True)
class Safety:
    """Rates of flagged words, by arm."""

    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        return analyse_safety(played, self.seed)


@dataclass(frozen=True)
class GuardPrice:
    """Utility against flagged words, by level of the guard."""

    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        return guard_curve(played, self.seed)


def _differences(found: AnalysisResult) -> list[Figure]:
    drawn = [differences(table.rows, table.title) for table in found.tables if table.name == "comparisons"]
    return [figure for figure in drawn if figure is not None]
