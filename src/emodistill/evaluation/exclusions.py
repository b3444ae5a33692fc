"""What the comparisons leave out, and why: a table that a referee can check row by row."""

from collections.abc import Sequence

from emodistill.evaluation.results import Played
from emodistill.evaluation.statistics import Key, key_of
from emodistill.reporting.table import Column, Table

_COLUMNS = [
    Column("arm", "arm", "text"),
    Column("condition", "condition", "text"),
    Column("training_seed", "training seed", "count"),
    Column("domain", "domain", "text"),
    Column("scenario", "scenario", "text"),
    Column("seed", "seed", "count"),
    Column("why", "why", "text"),
]


def exclusions(played: Sequence[Played]) -> Table:
    """Invalid episodes with their fault, and episodes that others played and an arm did not; empty where all pair."""
    everything = {key_of(episode) for one in played for episode in one.episodes}
    rows = [row for one in played for row in _of(one, everything)]
    shown = [column for column in _COLUMNS if column.key != "condition" or any(one.condition for one in played)]
    note = f"{len(rows)} of {len(played) * len(everything)} episodes are left out." if rows else "Nothing was left out."
    return Table("exclusions", "What was left out, and why", shown, rows, note)


def _of(played: Played, everything: set[Key]) -> list[dict[str, object]]:
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
