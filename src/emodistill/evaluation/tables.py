"""A report for people: the same tables on the screen and as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from emodistill.evaluation.report import SUBJECT

_VERDICT = {
    "exceeds": "exceeds vanilla and iql",
    "within noise": "is within noise of vanilla and iql",
    "below": "is below vanilla or iql",
}


@dataclass(frozen=True)
class Grid:
    """A table in words; the first `labels` columns are text, the others numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1


def grids(report: Mapping[str, Any]) -> list[Grid]:
    """The tables of a report: arms by domain, comparisons, and how well each source of words expresses itself."""
    tables = [_cells(report["cells"])]
    if report["comparisons"]:
        tables.append(_comparisons(report["comparisons"]))
    if report.get("expression"):
        tables.append(_expression(report["expression"]))
    return tables


def _cells(cells: Sequence[Mapping[str, Any]]) -> Grid:
    columns = ["domain", "arm", "episodes", "invalid", "success", "outcome", "utility [95 %]", "rounds", "faithful"]
    rows = [
        [row["domain"], row["arm"], str(row["episodes"]), str(row["invalid"])]
        + [number(row["success"]), number(row["outcome"]), interval(row["utility"], row["utility_ci"])]
        + [number(row["rounds"], 1), number(row["faithfulness"]), f"{row['offers_appended']}/{row['focal_turns']}"]
        + [f"{sum(row['slips'].values())}/{sum(row['counterparty_slips'].values())}"]
        for row in sorted(cells, key=lambda row: str(row["domain"]))
    ]
    return Grid("Arms on unseen scenarios", [*columns, "appended", "slips"], rows, labels=2)


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> Grid:
    rows = [
        [row["domain"], row["against"], interval(row["mean"], row["interval"]), number(row["effect_size"])]
        + [number(row["p_holm"], 3), str(row["pairs"]), row["verdict"]]
        for row in comparisons
    ]
    columns = ["domain", "against", "difference [95 %]", "effect size", "p (Holm)", "pairs", "verdict"]
    title = f"Utility of {comparisons[0]['arm']} less that of each other arm, paired by scenario and seed"
    return Grid(title, columns, rows, labels=2)


def _expression(rows: Sequence[Mapping[str, Any]]) -> Grid:
    columns = ["words", "situations", "faithful", "offer stated", "judge score", "words a reply"]
    cells = [
        [row["source"], str(row["situations"]), number(row["faithfulness"]), number(row["stated_offers"])]
        + [number(row["judge_score"]), number(row["words"], 1)]
        for row in rows
    ]
    return Grid("Expression in fixed situations of the validation split", columns, cells)


def show(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the tables and the verdicts; into a file, as wide as they need."""
    console = console or (Console() if Console().is_terminal else Console(width=130))
    for grid in grids(report):
        table = Table(title=grid.title)
        for i, column in enumerate(grid.columns):
            table.add_column(column, justify="left" if i < grid.labels else "right", no_wrap=i < grid.labels)
        for before, row in zip([None, *grid.rows], grid.rows, strict=False):
            if before and grid.labels > 1 and before[0] != row[0]:
                table.add_section()
            table.add_row(*row)
        console.print(table)
    for line in verdict_lines(report):
        console.print(line)


def markdown(report: Mapping[str, Any]) -> str:
    """The same as Markdown, with what the report is about."""
    about = [f"- {key.replace('_', ' ')}: {value}" for key, value in report["about"].items()]
    parts = ["\n".join(about)]
    for grid in grids(report):
        lines = [f"| {' | '.join(grid.columns)} |", "|" + "---|" * len(grid.columns)]
        lines += [f"| {' | '.join(row)} |" for row in grid.rows]
        parts.append(f"**{grid.title}**\n\n" + "\n".join(lines))
    parts.append("\n".join(f"- {line}" for line in verdict_lines(report)))
    return "\n\n".join(parts) + "\n"


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    return [f"{domain}: {SUBJECT} {_VERDICT[verdict]}" for domain, verdict in report["verdict"].items()]


def interval(value: float | None, bounds: Sequence[float | None]) -> str:
    return f"{number(value)} [{number(bounds[0])}, {number(bounds[1])}]"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
