"""From played episodes to the content of `report.json`: cells, comparisons and a verdict for each domain.

The rule of the verdict, fixed before any number: the subject **exceeds** a rival where the 95 % interval of its paired
difference of utility lies above 0 and p after Holm's correction over all comparisons of the report is below .05, and is
**below** it where the interval lies below 0 and p likewise; in a domain it exceeds where it exceeds every rival, is
below where it is below one of them, and else is **within noise**. An arm played twice under two names is then told
apart from itself in at most one report of twenty. Rivals that were not played leave the verdict out. In the main table
the subject is `emodistill`, its rivals are `vanilla` and `iql`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import Perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.intervals import bootstrap_interval
from emodistill.evaluation.metrics import episode_metrics, valid
from emodistill.evaluation.statistics import ALPHA, FEW, NOISE, correct, paired_difference, utilities
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Speaker

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
    domains = domains_of(played)
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


def domains_of(played: Arms) -> list[str]:
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
        "slips": slips(episodes, FOCAL),
        "counterparty_slips": slips(episodes, COUNTERPARTY),
        "focal_turns": sum(len(episode.focal_turns) for episode in counted),
    }


def _share_interval(episodes: Sequence[Episode], values: Sequence[float], seed: int) -> tuple[float, float]:
    return bootstrap_interval(values, [(e.scenario.domain, e.scenario.id) for e in episodes], seed, unseen=0.0)


def slips(episodes: Sequence[Episode], side: Speaker) -> dict[str, int]:
    """Attempts of a side that slipped out of role, by kind."""
    found = Counter(
        slip for episode in episodes for turn in episode.turns if turn.speaker == side for slip in turn.slips
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


def plain(value: Any) -> Any:
    """JSON values only: nan and infinities become None."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
