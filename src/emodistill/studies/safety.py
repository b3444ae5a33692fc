"""Safety beside utility: rates of flagged words for each arm (docs/safety.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emodistill.data.schema import Episode
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import bootstrap_interval
from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Column, Table
from emodistill.safety.detector import KINDS, detect
from emodistill.studies.comparisons import chosen

Rate = tuple[float, float, float]  # mean, low, high
ALL = "all"
ANY = "any"
MARK = "guarded:"  # of role violations that are refusals of the guard
NOTHING_FOUND = "Where nothing was found, the upper end is the exact binomial bound for this number of scenarios."
ERROR_WORD = "Read every rate beside the detector's own error: `python -m emodistill.safety`, docs/safety.md."


@dataclass(frozen=True)
class Safety:
    """Rates of each kind of flagged words, for each arm and domain, per focal turn and per episode."""

    seed: int = 0

    def __call__(self, results: Sequence[ArmResult]) -> AnalysisResult:
        return analyse_safety(results, self.seed)


@dataclass(frozen=True)
class FocalTurns:
    """The focal turns of some episodes: of each its scenario, and what was found in it."""

    episodes: Sequence[Episode]
    scenarios: Sequence[tuple[str, str]]
    kinds: Sequence[frozenset[str]]
    sizes: Sequence[int]  # focal turns of each episode

    def per_turn(self, kind: str, seed: int) -> Rate:
        """Share of turns of a kind."""
        return share_interval([float(_has(found, kind)) for found in self.kinds], self.scenarios, seed)

    def per_episode(self, kind: str, seed: int) -> Rate:
        """Share of episodes with at least one such turn."""
        values, start = list[float](), 0
        for size in self.sizes:
            values.append(float(any(_has(found, kind) for found in self.kinds[start : start + size])))
            start += size
        return share_interval(values, [scenario_of(episode) for episode in self.episodes], seed)


def analyse_safety(results: Sequence[ArmResult], seed: int = 0) -> AnalysisResult:
    """Rates of each kind for each arm and domain, per focal turn and per episode, with intervals over scenarios.

    Invalid episodes are left out. Training seeds of one arm and condition are put together.
    """
    rows = []
    for condition, arm in dict.fromkeys((one.condition, one.arm) for one in results):
        for domain, mine in by_domain(valid(chosen(results, arm, condition))):
            turns = read_turns(mine)
            row: dict[str, Any] = {"condition": condition, "arm": arm, "domain": domain, "episodes": len(mine)}
            row["turns"] = len(turns.kinds)
            row |= {f"{kind}_turn": turns.per_turn(kind, seed) for kind in (ANY, *KINDS)}
            row |= {f"{kind}_episode": turns.per_episode(kind, seed) for kind in (ANY, *KINDS)}
            row |= refusals(mine)
            rows.append(row)
    return AnalysisResult((_table(rows, "turn"), _table(rows, "episode")), (), _verdicts(rows))


def _table(rows: Sequence[dict[str, Any]], unit: str) -> Table:
    columns = [
        Column("arm", "arm", "text"),
        Column("domain", "domain", "text"),
        Column("episodes", "episodes", "count"),
    ]
    if any(row["condition"] for row in rows):
        columns.insert(0, Column("condition", "condition", "text"))
    columns += [Column(f"{k}_{unit}", k.replace("_", " "), "interval", 3) for k in (ANY, *KINDS)]
    if unit == "turn":
        columns += [
            Column("refused", "words refused a turn", digits=3),
            Column("fallbacks", "neutral sentences", "count"),
        ]
    title = f"Flagged shares of focal {'turns' if unit == 'turn' else 'episodes (at least one flagged turn)'}"
    return Table(
        f"safety_per_{unit}",
        title,
        columns,
        rows,
        f"95 % intervals by resampling scenarios. {NOTHING_FOUND} {ERROR_WORD}",
    )


def _verdicts(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    whole = [row for row in rows if row["domain"] == ALL]
    if not whole:
        return ()
    worst = max(whole, key=lambda row: row[f"{ANY}_turn"][0])
    rate, low, high = (100 * part for part in worst[f"{ANY}_turn"])
    if not rate:
        return ("The detector flags no focal turn of any arm; what it misses is not in this number.",)
    name = " / ".join(filter(None, (worst["condition"], worst["arm"])))
    return (f"Most flagged turns: {name}, {rate:.1f} % [{low:.1f}, {high:.1f}] of its focal turns.",)


def by_domain(episodes: Sequence[Episode]) -> list[tuple[str, list[Episode]]]:
    """All episodes under `all`, then those of each domain; empty where there are none."""
    domains = sorted({episode.scenario.domain for episode in episodes})
    groups = [(domain, [e for e in episodes if e.scenario.domain == domain]) for domain in domains]
    return [(ALL, list(episodes)), *groups] if episodes else []


def read_turns(episodes: Sequence[Episode]) -> FocalTurns:
    """What the detector finds in the focal turns."""
    flags = detect([turn.text for episode in episodes for turn in episode.focal_turns])
    scenarios = [scenario_of(episode) for episode in episodes for _ in episode.focal_turns]
    kinds = [frozenset[str](found.kinds) for found in flags]
    return FocalTurns(episodes, scenarios, kinds, [len(episode.focal_turns) for episode in episodes])


def refusals(episodes: Sequence[Episode]) -> dict[str, float]:
    """Attempts that the guard refused for each focal turn, and how often its neutral sentence was said."""
    turns = [turn for episode in episodes for turn in episode.focal_turns]
    kinds = [kind for turn in turns for kind in turn.role_violations if kind.startswith(MARK)]
    fallbacks = kinds.count(f"{MARK}fallback")
    return {"refused": (len(kinds) - fallbacks) / len(turns) if turns else float("nan"), "fallbacks": fallbacks}


def share_interval(values: Sequence[float], scenarios: Sequence[tuple[str, str]], seed: int) -> Rate:
    """A share and its 95 % interval, resampling scenarios."""
    mean = sum(values) / len(values) if values else float("nan")
    low, high = bootstrap_interval(values, scenarios, seed, unseen=None if any(values) else 0.0)
    return mean, max(low, 0.0), min(high, 1.0)  # nan stays: it is not below 0


def scenario_of(episode: Episode) -> tuple[str, str]:
    """The unit of resampling."""
    return episode.scenario.domain, episode.scenario.id


def _has(found: frozenset[str], kind: str) -> bool:
    return bool(found) if kind == ANY else kind in found
