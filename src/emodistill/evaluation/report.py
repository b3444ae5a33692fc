"""From played episodes to the content of `report.json`: cells, comparisons and a verdict for each domain.

The rule of the verdict, fixed before any number: `emodistill` **exceeds** where its paired difference of utility to
`vanilla` and to `iql` both have a 95 % interval above 0; it is **below** where one of them lies below 0; everything
else is **within noise**. Arms that were not played leave the verdict out.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import Perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.metrics import episode_metrics, valid
from emodistill.evaluation.statistics import Difference, bootstrap_interval, holm, paired_difference, utilities
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Speaker

VERDICT_RULE = "exceeds: utility above vanilla and above iql, both intervals above 0; below: one interval below 0"
SUBJECT, RIVALS = "emodistill", ("vanilla", "iql")
Played = Mapping[str, Sequence[Episode]]  # arm -> episodes


def build_report(played: Played, perceiver: Perceiver, vocabulary: Vocabulary, seed: int) -> dict[str, Any]:
    """Cells (arm x domain), paired comparisons and verdicts, in plain JSON values (nan becomes None)."""
    domains = sorted({episode.scenario.domain for episodes in played.values() for episode in episodes})
    cells = [
        cell(arm, domain, [e for e in episodes if e.scenario.domain == domain], perceiver, vocabulary, seed)
        for arm, episodes in played.items()
        for domain in domains
    ]
    comparisons = compare(played, domains, seed)
    report: dict[str, Any] = plain(
        {
            "cells": cells,
            "comparisons": comparisons,
            "verdict": verdicts(comparisons, domains) if SUBJECT in played else {},
        }
    )
    return report


def cell(
    arm: str, domain: str, episodes: Sequence[Episode], perceiver: Perceiver, vocabulary: Vocabulary, seed: int
) -> dict[str, Any]:
    """One row of the table."""
    metrics = episode_metrics(perceiver, vocabulary)
    metrics.update(episodes)
    counted = valid(episodes)
    values = {name: float(value) for name, value in metrics.compute().items()}
    interval = bootstrap_interval([e.utility for e in counted], [e.scenario.id for e in counted], seed)
    appended = sum(turn.offer_appended for episode in counted for turn in episode.focal_turns)
    return {
        "arm": arm,
        "domain": domain,
        "episodes": len(episodes),
        "invalid": len(episodes) - len(counted),
        **values,
        "utility_ci": list(interval),
        "offers_appended": appended,
        "slips": slips(episodes, FOCAL),
        "counterparty_slips": slips(episodes, COUNTERPARTY),
        "focal_turns": sum(len(episode.focal_turns) for episode in counted),
    }


def slips(episodes: Sequence[Episode], side: Speaker) -> dict[str, int]:
    """Attempts of a side that slipped out of role, by kind."""
    found = Counter(
        slip for episode in episodes for turn in episode.turns if turn.speaker == side for slip in turn.slips
    )
    return dict(sorted(found.items()))


def compare(played: Played, domains: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """One arm against every other, paired by (scenario, seed), in each domain and in all of them together.

    The one is `emodistill`, or the arm named last where `emodistill` was not played.
    """
    subject = SUBJECT if SUBJECT in played else list(played)[-1]
    rows: list[dict[str, Any]] = []
    for domain in [*domains, "all"]:
        chosen = {
            arm: utilities([e for e in episodes if domain in ("all", e.scenario.domain)])
            for arm, episodes in played.items()
        }
        for rival in (arm for arm in played if arm != subject):
            difference = paired_difference(chosen[subject], chosen[rival], seed)
            rows.append({"arm": subject, "against": rival, "domain": domain, **_described(difference)})
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return rows


def _described(difference: Difference) -> dict[str, Any]:
    return {**asdict(difference), "verdict": difference.verdict}


def verdicts(comparisons: Sequence[Mapping[str, Any]], domains: Sequence[str]) -> dict[str, str]:
    """The rule at the head of this module, for each domain."""
    result: dict[str, str] = {}
    for domain in domains:
        found = {row["against"]: row["verdict"] for row in comparisons if row["domain"] == domain}
        if all(rival in found for rival in RIVALS):
            single = [found[rival] for rival in RIVALS]
            result[domain] = (
                "below" if "below" in single else "exceeds" if set(single) == {"exceeds"} else "within noise"
            )
    return result


def plain(value: Any) -> Any:
    """JSON values only: nan and infinities become None."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
