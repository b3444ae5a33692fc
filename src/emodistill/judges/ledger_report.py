"""Look into a ledger of judgements.

    python -m emodistill.judges LEDGER [--judge NAME] [--export FILE.parquet]

Shows, for each version of each judge: how many judgements there are and how many of them have a score (coverage), what
they cost, how scores are distributed over emotions and domains, whether they drift with time, and why scores are
missing. Times are UTC. --judge keeps the judge of that name; --export also writes every column of the ledger to a new
Parquet file, one row per judgement (column `held`: a score that waits for its batch's probe and does not count yet).
"""

import argparse
import math
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emodistill.errors import UserError
from emodistill.files import replacing
from emodistill.judges.ledger import COLUMNS, Ledger


def main(arguments: Sequence[str]) -> int:
    """Show or export one ledger; returns 2 after one sentence on a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m emodistill.judges", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ledger", type=Path, help="the SQLite file, checkpoints/ledger.sqlite for example")
    parser.add_argument("--judge", help="only judgements of the judge of this name (rubric, lm, local, ensemble, ...)")
    parser.add_argument("--export", type=Path, metavar="FILE.parquet", help="write the judgements to a Parquet file")
    given = parser.parse_args(arguments)
    try:
        show(given.ledger, given.judge, given.export)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def show(path: Path, judge: str | None, export_to: Path | None) -> None:
    """Print the tables of a ledger, and export it if asked to.

    Raises:
        UserError: if there is no ledger, or nothing in it of that judge.
    """
    if not path.is_file():
        raise UserError(f"there is no ledger {path}; a run makes checkpoints/ledger.sqlite unless told otherwise")
    with Ledger(path) as ledger:
        judges = judge_statistics(ledger, judge)
        if not judges and judge is not None:
            names = sorted({one.name for one in judge_statistics(ledger)})
            raise UserError(f"{path} has no judgement of {judge!r}; it knows {', '.join(names) or 'no judge'}")
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH)
        if judges:
            print_tables(console, judges, failures(ledger, judge))
        else:
            console.print(f"{path} is empty")
        if export_to is not None:
            console.print(f"{export(ledger, export_to, judge)} judgements written to {export_to}")


BINS = 10  # whole scores, 1 to 10
MOST_DAYS = 31  # a longer time is cut into quarters
_SCORES = """SELECT judge, judge_version, domain, emotion, CAST(score + 0.5 AS INTEGER) AS bin,
count(*), total(score), total(score * score) FROM judgements WHERE judge = coalesce(?, judge) GROUP BY 1, 2, 3, 4, 5"""
_COSTS = """SELECT judge, judge_version, sum(attempts), sum(prompt_tokens), sum(completion_tokens), sum(cost),
sum(attempts > 0 AND cost IS NULL), avg(latency_s), min(judged_at), max(judged_at)
FROM judgements WHERE judge = coalesce(?, judge) GROUP BY 1, 2 ORDER BY max(judged_at) DESC"""
_BY_TIME = """SELECT period, min(judged_at), max(judged_at), count(score), count(*), total(score), total(score * score)
FROM (SELECT *, {0} AS period FROM judgements WHERE judge = ? AND judge_version = ?) GROUP BY period ORDER BY period"""
_DAY, _QUARTER = "date(judged_at, 'unixepoch')", "ntile(4) OVER (ORDER BY judged_at)"
_FAILURES = "SELECT reason, count(*) FROM judgements WHERE score IS NULL AND judge = coalesce(?, judge) GROUP BY reason"


@dataclass
class ScoreStatistics:
    """How scores are distributed; `histogram[i]` counts those nearest to i + 1."""

    scored: int = 0
    missing: int = 0
    total: float = 0.0
    squares: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)

    @property
    def mean(self) -> float | None:
        return self.total / self.scored if self.scored else None

    @property
    def std(self) -> float | None:
        if self.mean is None:
            return None
        return math.sqrt(max(self.squares / self.scored - self.mean**2, 0.0))

    def add(self, whole_score: int | None, count: int, total: float, squares: float) -> None:
        """Add judgements whose score rounds to `whole_score`, or that have none."""
        if whole_score is None:
            self.missing += count
            return
        self.scored += count
        self.total += total
        self.squares += squares
        self.histogram[whole_score - 1] += count


@dataclass(frozen=True)
class JudgeCost:
    """What a judge's stored judgements took; times are seconds since 1970.

    Attributes:
        cost: of the judgements with a known price; None where there is none.
        unpriced: judgements that a server was asked for and whose price is not known.
        latency_s: mean per judgement.
    """

    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    unpriced: int
    latency_s: float
    first: float
    last: float


@dataclass(frozen=True)
class Period:
    """A day or a quarter of a judge's judgements; its statistics have no histogram."""

    first: float
    last: float
    scores: ScoreStatistics


@dataclass(frozen=True)
class JudgeStatistics:
    """One version of one judge; `cells` are keyed by (domain, emotion)."""

    name: str
    version: str
    cost: JudgeCost
    cells: dict[tuple[str, str | None], ScoreStatistics]
    periods: list[Period]

    def scores(self, domain: str | None = None, emotions: Iterable[str | None] | None = None) -> ScoreStatistics:
        """Over all cells, or those of one domain, or of some emotions."""
        found, wanted = ScoreStatistics(), None if emotions is None else set(emotions)
        for (place, emotion), cell in self.cells.items():
            if domain in (None, place) and (wanted is None or emotion in wanted):
                for name in ("scored", "missing", "total", "squares"):
                    setattr(found, name, getattr(found, name) + getattr(cell, name))
                found.histogram = [mine + other for mine, other in zip(found.histogram, cell.histogram, strict=True)]
        return found


def judge_statistics(ledger: Ledger, judge: str | None = None) -> list[JudgeStatistics]:
    """One entry per judge and version, the one asked last first; `judge` keeps those of that name."""
    with ledger.explained():
        ask = ledger.connection.execute
        costs = {(name, version): JudgeCost(*cost) for name, version, *cost in ask(_COSTS, (judge,))}
        cells: dict[tuple[str, str], dict[tuple[str, str | None], ScoreStatistics]] = {key: {} for key in costs}
        for name, version, domain, emotion, *sums in ask(_SCORES, (judge,)):
            cells[name, version].setdefault((domain, emotion), ScoreStatistics()).add(*sums)
        return [
            JudgeStatistics(*key, cost, cells[key], _periods(ledger.connection, *key, cost))
            for key, cost in costs.items()
        ]


def _periods(connection: sqlite3.Connection, name: str, version: str, cost: JudgeCost) -> list[Period]:
    """By day where there are several, and not too many; else by quarter, counted in judgements."""
    days = int(cost.last // 86400 - cost.first // 86400) + 1
    query = _BY_TIME.format(_DAY if 1 < days <= MOST_DAYS else _QUARTER)
    rows = connection.execute(query, (name, version)).fetchall()
    return [
        Period(first, last, ScoreStatistics(scored, count - scored, total, squares))
        for _, first, last, scored, count, total, squares in rows
    ]


def failures(ledger: Ledger, judge: str | None = None) -> list[tuple[str, int]]:
    """Why scores are missing, the commonest reason first; reasons that differ in a number count as one."""
    found: Counter[str] = Counter()
    with ledger.explained():
        for reason, count in ledger.connection.execute(_FAILURES, (judge,)):
            found[re.sub(r"\d+", "#", reason)] += count
    return found.most_common()


_BARS = "·▁▂▃▄▅▆▇█"
_WIDTH = 132  # where there is no terminal
_MOST_REASONS = 20
_LONGEST_REASON = 90


def print_tables(console: Console, judges: Sequence[JudgeStatistics], reasons: Sequence[tuple[str, int]]) -> None:
    """Coverage and cost of all judges, distribution and drift of each, then why scores are missing."""
    console.print(_coverage(judges))
    for judge in judges:
        console.print(_distribution(judge))
        console.print(_drift(judge))
    if reasons:
        console.print(_reasons(reasons))


def _coverage(judges: Sequence[JudgeStatistics]) -> Table:
    columns = ["judge", "version", "count", "missing", "coverage", "calls", "tokens in", "out", "cost"]
    table = _table("Judges", [*columns, "seconds", "first", "last"], labels=2)
    for judge in judges:
        scores, took = judge.scores(), judge.cost
        count = scores.scored + scores.missing
        cost = "–" if took.cost is None else f"{took.cost:.4f}"
        if took.unpriced:
            cost += f" + {took.unpriced} unpriced"
        cells = [str(count), str(scores.missing), f"{scores.scored / count:.1%}", str(took.attempts)]
        cells += [str(took.prompt_tokens), str(took.completion_tokens), cost, f"{took.latency_s:.3g}"]
        cells += [_time(took.first)[:10], _time(took.last)[:10]]
        table.add_row(*map(_plain, [judge.name, judge.version, *cells]))
    return table


def _distribution(judge: JudgeStatistics) -> Table:
    """Emotions down, domains across; the bars are the scores 1 to 10 of the row."""
    domains = sorted({domain for domain, _ in judge.cells})
    emotions = sorted({emotion for _, emotion in judge.cells}, key=lambda label: (label is None, label or ""))
    title = f"Scores of {judge.name} {judge.version}: mean, by prompted emotion and domain (number of scores)"
    table = _table(title, ["emotion", "scores", "missing", "mean", "std", "1 to 10", *domains], labels=1)
    for label in emotions:
        cells = [_cell(judge.scores(domain, [label])) for domain in domains]
        table.add_row(*map(_plain, [label or "(none asked)", *_summary(judge.scores(emotions=[label])), *cells]))
    table.add_section()
    columns = [judge.scores(domain) for domain in domains]
    table.add_row(*map(_plain, ["all", *_summary(judge.scores()), *map(_cell, columns)]))
    table.add_row(*map(_plain, ["", "", "", "", "", "", *[bars(column.histogram) for column in columns]]))
    return table


def _drift(judge: JudgeStatistics) -> Table:
    """Other utterances at another time have other scores, so a change of mean is a reason to look, not a proof."""
    table = _table(f"Drift of {judge.name} {judge.version}", ["from", "to", "scores", "missing", "mean", "change"], 2)
    start = judge.periods[0].scores
    for period in judge.periods:
        scores = period.scores
        cells = [str(scores.scored), str(scores.missing), _number(scores.mean), _change(scores, start)]
        table.add_row(*map(_plain, [_time(period.first), _time(period.last), *cells]))
    return table


def _change(scores: ScoreStatistics, start: ScoreStatistics) -> str:
    """Difference to the first period with the half-width of its 95 % interval."""
    if scores is start or scores.mean is None or start.mean is None:
        return "–"
    variance = sum((one.std or 0.0) ** 2 / one.scored for one in (scores, start))
    return f"{scores.mean - start.mean:+.2f} ± {1.96 * variance**0.5:.2f}"


def _reasons(reasons: Sequence[tuple[str, int]]) -> Table:
    table = _table("Why scores are missing", ["reason", "judgements"], labels=1)
    for reason, count in reasons[:_MOST_REASONS]:
        text = reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"
        table.add_row(_plain(text), _plain(str(count)))
    if rest := sum(count for _, count in reasons[_MOST_REASONS:]):
        table.add_row(_plain(f"{len(reasons) - _MOST_REASONS} other reasons"), _plain(str(rest)))
    return table


def bars(histogram: Sequence[int]) -> str:
    """One character per bin; the fullest bin is full, and a bin that is not empty is visible."""
    most = max(max(histogram), 1)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in histogram)


def _summary(scores: ScoreStatistics) -> list[str]:
    numbers = [_number(scores.mean), _number(scores.std), bars(scores.histogram)]
    return [str(scores.scored), str(scores.missing), *numbers]


def _cell(scores: ScoreStatistics) -> str:
    return "" if scores.mean is None else f"{scores.mean:.2f} ({scores.scored})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _table(title: str, columns: Sequence[str], labels: int) -> Table:
    table = Table(title=_plain(title), title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(_plain(name), justify="left" if place < labels else "right", overflow="fold")
    return table


def _plain(text: str) -> Text:
    """Text without markup or control characters: reasons and labels come from outside and must not move the cursor."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))


_INTEGERS, _FLOATS = ("prompt_tokens", "completion_tokens", "attempts"), ("score", "cost", "latency_s", "held")
_TYPES = dict.fromkeys(_INTEGERS, pa.int64()) | dict.fromkeys(_FLOATS, pa.float64())
_TYPES |= {"judged_at": pa.timestamp("us", tz="UTC")}
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])
_ROWS_AT_ONCE = 10_000


def export(ledger: Ledger, path: Path, judge: str | None = None) -> int:
    """Write all judgements, or those of one judge, to a Parquet file in the order of their keys; returns how many.

    Raises:
        UserError: if the file is there already or cannot be written. Nothing half-written is left.
    """
    if path.exists():
        raise UserError(f"{path} is there already; delete it or export to another path")
    query = f"SELECT {', '.join(COLUMNS)} FROM judgements WHERE judge = coalesce(?, judge) ORDER BY key"
    count = 0
    try:
        with replacing(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer, ledger.explained():
            cursor = ledger.connection.execute(query, (judge,))
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                writer.write_batch(_record_batch(rows))
                count += len(rows)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}); choose another path or make room") from error
    return count


def _record_batch(rows: Sequence[tuple[Any, ...]]) -> Any:
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    columns["judged_at"] = tuple(datetime.fromtimestamp(seconds, UTC) for seconds in columns["judged_at"])
    return pa.record_batch([pa.array(columns[one.name], one.type) for one in SCHEMA], schema=SCHEMA)
