"""What the guard costs: utility against the share of flagged turns, from no guard to the strictest (docs/safety.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from emodistill.data.schema import Episode
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.results import ArmResult
from emodistill.evaluation.statistics import bootstrap_interval
from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Column, Figure, Table
from emodistill.safety.detector import KINDS, detect
from emodistill.safety.guard import load_guard

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


# ---- safety ----
# Safety beside utility: rates of flagged words for each arm (docs/safety.md).

Rate = tuple[float, float, float]  # mean, low, high
ALL = "all"
ANY = "any"
MARK = "guarded:"  # of role violations that are refusals of the guard
ERROR_WORD = "Read every rate beside the detector's own error: `python -m emodistill.safety`, docs/safety.md."


@dataclass(frozen=True)
class Turns:
    """The focal turns of some episodes: of each its scenario, and what was found in it."""

    episodes: Sequence[Episode]
    scenarios: Sequence[tuple[str, str]]
    kinds: Sequence[frozenset[str]]
    sizes: Sequence[int]  # focal turns of each episode

    def per_turn(self, kind: str, seed: int) -> Rate:
        """Share of turns of a kind."""
        return mean_interval([float(_has(found, kind)) for found in self.kinds], self.scenarios, seed)

    def per_episode(self, kind: str, seed: int) -> Rate:
        """Share of episodes with at least one such turn."""
        values, start = list[float](), 0
        for size in self.sizes:
            values.append(float(any(_has(found, kind) for found in self.kinds[start : start + size])))
            start += size
        return mean_interval(values, [scenario_of(episode) for episode in self.episodes], seed)


def analyse_safety(played: Sequence[ArmResult], seed: int = 0) -> AnalysisResult:
    """Rates of each kind for each arm and domain, per focal turn and per episode, with intervals over scenarios.

    Invalid episodes are left out. Several entries of one arm and condition (training seeds) are put together.
    """
    rows = []
    for condition, arm in dict.fromkeys((one.condition, one.arm) for one in played):
        episodes = [e for one in played if (one.condition, one.arm) == (condition, arm) for e in valid(one.episodes)]
        for domain, mine in by_domain(episodes):
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
        f"95 % intervals by resampling scenarios; 0 [0, 0] says only that none was found. {ERROR_WORD}",
        appendix=True,
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


def read_turns(episodes: Sequence[Episode]) -> Turns:
    """What the detector finds in the focal turns."""
    flags = detect([turn.text for episode in episodes for turn in episode.focal_turns])
    scenarios = [scenario_of(episode) for episode in episodes for _ in episode.focal_turns]
    kinds = [frozenset[str](found.kinds) for found in flags]
    return Turns(episodes, scenarios, kinds, [len(episode.focal_turns) for episode in episodes])


def refusals(episodes: Sequence[Episode]) -> dict[str, float]:
    """Attempts that the guard refused for each focal turn, and how often its neutral sentence was said."""
    turns = [turn for episode in episodes for turn in episode.focal_turns]
    refusals = [kind for turn in turns for kind in turn.role_violations if kind.startswith(MARK)]
    fallbacks = refusals.count(f"{MARK}fallback")
    return {"refused": (len(refusals) - fallbacks) / len(turns) if turns else float("nan"), "fallbacks": fallbacks}


def mean_interval(values: Sequence[float], scenarios: Sequence[tuple[str, str]], seed: int) -> Rate:
    """Mean and its 95 % interval, resampling scenarios."""
    mean = sum(values) / len(values) if values else float("nan")
    low, high = bootstrap_interval(values, scenarios, seed)
    return mean, max(low, 0.0), min(high, 1.0)  # nan stays: it is not below 0


def scenario_of(episode: Episode) -> tuple[str, str]:
    """The unit of resampling."""
    return episode.scenario.domain, episode.scenario.id


def _has(found: frozenset[str], kind: str) -> bool:
    return bool(found) if kind == ANY else kind in found


LEVELS = ("off", "words", "mild", "strict")
STRICTEST = LEVELS[-1]
_ACROSS = {"flagged": "turns flagged, %", "barred": "turns with an emotion that strict bars, %"}


def guard_curve(played: Sequence[ArmResult], seed: int = 0) -> AnalysisResult:
    """What the guard costs: utility against the share of flagged turns, by level (the condition of each `ArmResult`).

    A level is told by the last word of its condition, so `guard=strict` and `strict` are the same.
    """
    rows = []
    for arm in dict.fromkeys(one.arm for one in played):
        for level in LEVELS:
            mine = [one for one in played if one.arm == arm and _level(one.condition) == level]
            for domain, episodes in by_domain([e for one in mine for e in valid(one.episodes)]):
                utility = mean_interval([e.utility for e in episodes], [scenario_of(e) for e in episodes], seed)
                row: dict[str, Any] = {"arm": arm, "domain": domain, "level": level, "episodes": len(episodes)}
                flagged = read_turns(episodes).per_turn(ANY, seed)
                row |= {"utility": utility, "flagged": flagged, "barred": _barred(episodes, seed), **refusals(episodes)}
                rows.append(row)
    columns = [Column(key, key, "text") for key in ("arm", "domain", "level")]
    columns += [Column("episodes", "episodes", "count"), Column("utility", "utility", "interval", 3)]
    columns += [Column("flagged", "turns flagged", "interval", 3)]
    columns += [Column("barred", "emotions that strict bars", "interval", 3)]
    columns += [Column("refused", "words refused a turn", digits=3)]
    columns += [Column("fallbacks", "neutral sentences", "count")]
    table = Table("guard", "The price of the guard", columns, rows, f"95 % intervals over scenarios. {ERROR_WORD}")
    return AnalysisResult((table,), (_figure(rows),) if rows else (), _prices(rows))


def _figure(rows: Sequence[dict[str, Any]]) -> Figure:
    ends = [
        f"{r['arm']} {r['level']} {r['utility'][0]:.2f} at {r['flagged'][0]:.1%}" for r in rows if r["domain"] == ALL
    ]
    words = f"Utility against the share of flagged turns for each level of the guard. All domains: {'; '.join(ends)}."
    return Figure("guard_curve", "Utility against flagged turns, by level of the guard", words, partial(_draw, rows))


def _draw(rows: Sequence[dict[str, Any]], canvas: "Canvas") -> None:
    """Domains across; above the flagged words, below the emotions that the strictest level bars."""
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    canvas.set_size_inches(3.2 * len(domains), 6.4)
    grid = canvas.subplots(2, len(domains), sharey=True, squeeze=False)
    for axes, (key, label) in zip(grid, _ACROSS.items(), strict=True):
        for axis, domain in zip(axes, domains, strict=True):
            for number, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
                points = [row for row in rows if (row["domain"], row["arm"]) == (domain, arm)]
                _line(axis, points, key, f"C{number}", arm)
            axis.set(title=domain, xlabel=label)
            axis.set_xlim(left=min(axis.get_xlim()[0], -0.5), right=max(axis.get_xlim()[1], 1.0))
        axes[0].set_ylabel("utility, 95 % interval")
    grid[0, 0].legend(frameon=False, fontsize="small")
    canvas.tight_layout()


def _line(axis: Any, points: Sequence[dict[str, Any]], key: str, colour: str, arm: str) -> None:
    across = [100 * row[key][0] for row in points]
    utility = [row["utility"] for row in points]
    below = [max(mean - low, 0.0) if low == low else 0.0 for mean, low, _ in utility]
    above = [max(high - mean, 0.0) if high == high else 0.0 for mean, _, high in utility]
    heights = [mean for mean, _, _ in utility]
    axis.errorbar(across, heights, [below, above], color=colour, marker="o", capsize=2, linewidth=1, label=arm)
    for x, y, row in zip(across, heights, points, strict=True):
        axis.annotate(row["level"], (x, y), textcoords="offset points", xytext=(4, 4), fontsize="x-small")


def _prices(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    of = {(row["arm"], row["level"]): row for row in rows if row["domain"] == ALL}
    return tuple(
        f"{arm}: guard={level} moves utility from {of[arm, 'off']['utility'][0]:.2f} to {row['utility'][0]:.2f}, "
        f"flagged turns from {of[arm, 'off']['flagged'][0]:.1%} to {row['flagged'][0]:.1%}."
        for (arm, level), row in of.items()
        if level != "off" and (arm, "off") in of
    )


def _level(condition: str) -> str:
    return condition.replace("=", " ").split()[-1] if condition.strip() else "off"


def _barred(episodes: Sequence[Episode], seed: int) -> tuple[float, float, float]:
    """Share of focal turns that show an emotion which the strictest level bars in their domain."""
    forbidden = load_guard(STRICTEST).forbidden
    turns = [(scenario_of(episode), turn.emotion) for episode in episodes for turn in episode.focal_turns]
    values = [float(emotion in forbidden.get(scenario[0], ())) for scenario, emotion in turns]
    return mean_interval(values, [scenario for scenario, _ in turns], seed)
