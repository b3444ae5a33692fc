"""What the comparisons of a report leave out: every episode that is invalid or has no pair, with the reason."""

from collections.abc import Sequence

from emodistill.evaluation.results import ArmResult, distinct
from emodistill.evaluation.statistics import Key, key_of
from emodistill.reporting.tables import Column, Table

_EXCLUSIONS = [
    Column("arm", "arm", "text"),
    Column("condition", "condition", "text"),
    Column("training_seed", "training seed", "count"),
    Column("domain", "domain", "text"),
    Column("scenario", "scenario", "text"),
    Column("seed", "seed", "count"),
    Column("why", "why", "text"),
]


def exclusions(results: Sequence[ArmResult]) -> Table:
    """Invalid episodes with their fault, and episodes that others played and an arm did not; empty where all pair."""
    everything = {key_of(episode) for one in results for episode in one.episodes}
    played = distinct(results)
    rows = [row for one in played for row in _of(one, everything)]
    shown = [column for column in _EXCLUSIONS if column.key != "condition" or any(one.condition for one in results)]
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
