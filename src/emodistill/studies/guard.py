"""What the guard costs: utility against the share of flagged turns, from no guard to the strictest (docs/safety.md)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from emodistill.data.schema import Episode
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.results import ArmResult, distinct
from emodistill.evaluation.statistics import utilities
from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Column, Figure, Table
from emodistill.safety.guard import load_guard
from emodistill.studies.comparisons import mean_interval
from emodistill.studies.safety import (
    ALL,
    ANY,
    ERROR_WORD,
    NOTHING_FOUND,
    by_domain,
    read_turns,
    refusals,
    scenario_of,
    share_interval,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

LEVELS = ("off", "words", "mild", "strict")
STRICTEST = LEVELS[-1]
_ACROSS = {"flagged": "turns flagged, %", "barred": "turns with an emotion that strict bars, %"}


@dataclass(frozen=True)
class GuardPrice:
    """Utility against flagged words, by level of the guard."""

    seed: int = 0

    def __call__(self, results: Sequence[ArmResult]) -> AnalysisResult:
        return guard_curve(results, self.seed)


def guard_curve(results: Sequence[ArmResult], seed: int = 0) -> AnalysisResult:
    """What the guard costs: utility against the share of flagged turns, by level (the condition of each `ArmResult`).

    A level is told by the last word of its condition, so `guard=strict` and `strict` are the same.
    """
    rows = []
    for arm in dict.fromkeys(one.arm for one in results):
        for level in LEVELS:
            mine = [one for one in distinct(results) if one.arm == arm and _level(one.condition) == level]
            for domain, episodes in by_domain([e for one in mine for e in valid(one.episodes)]):
                utility = mean_interval(utilities(episodes), seed)
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
    note = f"95 % intervals over scenarios, that of utility as in the main table. {NOTHING_FOUND} {ERROR_WORD}"
    table = Table("guard", "The price of the guard", columns, rows, note)
    summary = replace(table, rows=[row for row in rows if row["domain"] == ALL], note="")
    return AnalysisResult((table,), (_figure(rows),) if rows else (), _prices(rows), summary=summary)


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
    return share_interval(values, [scenario for scenario, _ in turns], seed)
