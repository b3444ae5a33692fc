"""A ledger for people: tables on the terminal. Reasons and labels come from outside and are shown as plain text."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from emodistill.judges.ledger_figures import JudgeFigures, Spread

_BARS = "·▁▂▃▄▅▆▇█"
_WIDTH = 132  # where there is no terminal
_MOST_REASONS = 20
_LONGEST_REASON = 90


def show(console: Console, judges: Sequence[JudgeFigures], reasons: Sequence[tuple[str, int]]) -> None:
    """Coverage and cost of all judges, spread and drift of each, then why scores are missing; times are UTC."""
    console.print(_coverage(judges))
    for judge in judges:
        console.print(_spread(judge))
        console.print(_drift(judge))
    if reasons:
        console.print(_reasons(reasons))


def terminal() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _coverage(judges: Sequence[JudgeFigures]) -> Table:
    columns = ["judge", "version", "count", "missing", "coverage", "calls", "tokens in", "out", "cost"]
    table = _table("Judges", [*columns, "seconds", "first", "last"], labels=2)
    for judge in judges:
        whole, bill = judge.spread(), judge.bill
        count = whole.scored + whole.missing
        cost = "–" if bill.cost is None else f"{bill.cost:.4f}"
        if bill.unpriced:
            cost += f" + {bill.unpriced} unpriced"
        cells = [str(count), str(whole.missing), f"{whole.scored / count:.1%}", str(bill.attempts)]
        cells += [str(bill.prompt_tokens), str(bill.completion_tokens), cost, f"{bill.latency_s:.3g}"]
        table.add_row(*map(plain, [judge.name, judge.version, *cells, _when(bill.first)[:10], _when(bill.last)[:10]]))
    return table


def _spread(judge: JudgeFigures) -> Table:
    """Emotions down, domains across; the bars are the scores 1 to 10 of the row."""
    domains = sorted({domain for domain, _ in judge.cells})
    emotions = sorted({emotion for _, emotion in judge.cells}, key=lambda label: (label is None, label or ""))
    title = f"Scores of {judge.name} {judge.version}: mean, by emotion asked for and domain (number of scores)"
    table = _table(title, ["emotion", "scores", "missing", "mean", "std", "1 to 10", *domains], labels=1)
    for label in emotions:
        row = judge.spread(emotions=[label])
        cells = [_cell(judge.spread(domain, [label])) for domain in domains]
        table.add_row(*map(plain, [label or "(none asked)", *_summary(row), *cells]))
    table.add_section()
    columns = [judge.spread(domain) for domain in domains]
    table.add_row(*map(plain, ["all", *_summary(judge.spread()), *map(_cell, columns)]))
    table.add_row(*map(plain, ["", "", "", "", "", "", *[bars(column.histogram) for column in columns]]))
    return table


def _drift(judge: JudgeFigures) -> Table:
    """Other questions at another time have other scores, so a change of mean is a reason to look, not a proof."""
    table = _table(f"Drift of {judge.name} {judge.version}", ["from", "to", "scores", "missing", "mean", "change"], 2)
    start = judge.periods[0].spread
    for period in judge.periods:
        spread = period.spread
        cells = [str(spread.scored), str(spread.missing), _number(spread.mean), _change(spread, start)]
        table.add_row(*map(plain, [_when(period.first), _when(period.last), *cells]))
    return table


def _change(spread: Spread, start: Spread) -> str:
    """Difference to the first period with the half-width of its 95 % interval."""
    if spread is start or spread.mean is None or start.mean is None:
        return "–"
    variance = sum((one.std or 0.0) ** 2 / one.scored for one in (spread, start))
    return f"{spread.mean - start.mean:+.2f} ± {1.96 * variance**0.5:.2f}"


def _reasons(reasons: Sequence[tuple[str, int]]) -> Table:
    table = _table("Why scores are missing", ["reason", "judgements"], labels=1)
    for reason, count in reasons[:_MOST_REASONS]:
        shown = reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"
        table.add_row(plain(shown), plain(str(count)))
    if rest := sum(count for _, count in reasons[_MOST_REASONS:]):
        table.add_row(plain(f"{len(reasons) - _MOST_REASONS} other reasons"), plain(str(rest)))
    return table


def bars(histogram: Sequence[int]) -> str:
    """One character a bin; the fullest bin is full, and one that is not empty is seen."""
    most = max(max(histogram), 1)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in histogram)


def plain(text: str) -> Text:
    """Text without markup or control characters: nothing that a server said moves the cursor."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))


def _summary(spread: Spread) -> list[str]:
    numbers = [_number(spread.mean), _number(spread.std), bars(spread.histogram)]
    return [str(spread.scored), str(spread.missing), *numbers]


def _cell(spread: Spread) -> str:
    return "" if spread.mean is None else f"{spread.mean:.2f} ({spread.scored})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _table(title: str, columns: Sequence[str], labels: int) -> Table:
    table = Table(title=plain(title), title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(plain(name), justify="left" if place < labels else "right", overflow="fold")
    return table
