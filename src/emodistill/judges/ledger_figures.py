"""What a ledger says about its judges, in numbers: coverage, cost, spread of scores, drift, failures."""

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from emodistill.judges.ledger_rows import Ledger

BINS = 10  # whole scores, 1 to 10
MOST_DAYS = 31  # a longer time is cut into quarters
_SPREADS = """SELECT judge, judge_version, domain, emotion, CAST(score + 0.5 AS INTEGER) AS bin,
count(*), total(score), total(score * score) FROM judgements WHERE judge = coalesce(?, judge) GROUP BY 1, 2, 3, 4, 5"""
_BILLS = """SELECT judge, judge_version, sum(attempts), sum(prompt_tokens), sum(completion_tokens), sum(cost),
sum(attempts > 0 AND cost IS NULL), avg(latency_s), min(judged_at), max(judged_at)
FROM judgements WHERE judge = coalesce(?, judge) GROUP BY 1, 2 ORDER BY max(judged_at) DESC"""
_BY_TIME = """SELECT period, min(judged_at), max(judged_at), count(score), count(*), total(score), total(score * score)
FROM (SELECT *, {0} AS period FROM judgements WHERE judge = ? AND judge_version = ?) GROUP BY period ORDER BY period"""
_DAY, _QUARTER = "date(judged_at, 'unixepoch')", "ntile(4) OVER (ORDER BY judged_at)"
_FAILURES = "SELECT reason, count(*) FROM judgements WHERE score IS NULL AND judge = coalesce(?, judge) GROUP BY reason"


@dataclass
class Spread:
    """How scores are spread; `histogram[i]` counts those nearest to i + 1."""

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

    def add(self, place: int | None, count: int, total: float, squares: float) -> None:
        """Take in judgements whose score rounds to `place`, or that have none."""
        if place is None:
            self.missing += count
            return
        self.scored += count
        self.total += total
        self.squares += squares
        self.histogram[place - 1] += count


@dataclass(frozen=True)
class Bill:
    """What a judge's stored judgements took; times are seconds since 1970.

    Attributes:
        cost: of the judgements with a known price; None where there is none.
        unpriced: judgements that somebody was asked for and whose price is not known.
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
    """A day or a quarter of a judge's judgements; `spread` has no histogram."""

    first: float
    last: float
    spread: Spread


@dataclass(frozen=True)
class JudgeFigures:
    """One version of one judge; `cells` are keyed by (domain, emotion)."""

    name: str
    version: str
    bill: Bill
    cells: dict[tuple[str, str | None], Spread]
    periods: list[Period]

    def spread(self, domain: str | None = None, emotions: Iterable[str | None] | None = None) -> Spread:
        """Over all cells, or those of one domain, or of some emotions."""
        found, wanted = Spread(), None if emotions is None else set(emotions)
        for (place, emotion), cell in self.cells.items():
            if domain in (None, place) and (wanted is None or emotion in wanted):
                for name in ("scored", "missing", "total", "squares"):
                    setattr(found, name, getattr(found, name) + getattr(cell, name))
                found.histogram = [mine + other for mine, other in zip(found.histogram, cell.histogram, strict=True)]
        return found


def judge_figures(ledger: Ledger, judge: str | None = None) -> list[JudgeFigures]:
    """One entry a judge and version, the one asked last first; `judge` keeps those of that name."""
    with ledger.explained():
        ask = ledger.connection.execute
        bills = {(name, version): Bill(*bill) for name, version, *bill in ask(_BILLS, (judge,))}
        cells: dict[tuple[str, str], dict[tuple[str, str | None], Spread]] = {key: {} for key in bills}
        for name, version, domain, emotion, place, *sums in ask(_SPREADS, (judge,)):
            cells[name, version].setdefault((domain, emotion), Spread()).add(place, *sums)
        found = [(key, bill, cells[key], _periods(ledger.connection, *key, bill)) for key, bill in bills.items()]
    return [JudgeFigures(*key, bill, spreads, periods) for key, bill, spreads, periods in found]


def _periods(connection: sqlite3.Connection, name: str, version: str, bill: Bill) -> list[Period]:
    """By day where there are several, and not too many; else by quarter, counted in judgements."""
    days = int(bill.last // 86400 - bill.first // 86400) + 1
    query = _BY_TIME.format(_DAY if 1 < days <= MOST_DAYS else _QUARTER)
    rows = connection.execute(query, (name, version)).fetchall()
    return [
        Period(first, last, Spread(scored, count - scored, total, squares))
        for _, first, last, scored, count, total, squares in rows
    ]


def failures(ledger: Ledger, judge: str | None = None) -> list[tuple[str, int]]:
    """Why scores are missing, the commonest reason first; reasons that differ in a number count as one."""
    found: Counter[str] = Counter()
    with ledger.explained():
        for reason, count in ledger.connection.execute(_FAILURES, (judge,)):
            found[re.sub(r"\d+", "#", reason)] += count
    return found.most_common()
