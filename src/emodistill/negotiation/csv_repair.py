"""The text of a scenario file, cut into records, and a record into its columns although its inner commas are unquoted.

A record is a line, or several where a quoted cell goes on over the end of one. A file whose separators all have a space
after them (", "), and one that is separated by semicolons or tabs, separates at each of them outside quotes.

In the published files a comma that separates has no space after it and an inner one mostly has. So, in this order:

1. A comma inside a quoted cell or inside curly quotes never separates; one before a space does not; any other does.
2. Where the cells are as many as the columns and every typed column (number, clock time, Yes/No, enumeration) holds
   what it should, that is the row.
3. Where exactly one cell is missing and the domain names a column that its file leaves out (`optional`), that column
   is empty, provided that every typed column then fits.
4. Else the fewest commas that make the count right change their part (a missing cell: commas before a space separate;
   one too many: other commas do not), provided that exactly one such choice fits every typed column. Where several
   fit, the one with quotes around the column of type `quoted` counts.
5. Anything else is given up with a reason: a cell is never put into a column by a guess.

A number may be written as people write it ("$18,000", "75 %", "24 000 EUR") where no target is made of it; it stays
text. In a column that targets come from, it must be a plain number.

`separates_after` lists, in the domain's file, the texts after which a comma before a space does separate: misprints
found by reading the rows one by one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from emodistill.negotiation.targets import read_clock, read_number

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
_WHOLE = re.compile(r'"((?:[^"]|"")*)"')
_MOST_CHANGES = 2  # a row further from its columns than this is not repaired
_MOST_LINES = 100  # of one quoted cell; a quote that nobody closes must not swallow the rest of the file
_AMOUNT = re.compile(
    r"[(+−–-]*\s*((?:[A-Z][A-Za-z]{0,2}\.?|[^\w\s.,'’\"()+−–-])\s*){0,2}"  # a sign, and a currency: $, US$, EUR, Rs.
    r"[+−–-]?\s*[.,]?\d(?:[.,'’\s]?\d)*[.,]?\s*"  # 18000, 18,000.00, 18.000,00, 18 000, 18'000, .5
    r"((?:[A-Za-z]{1,9}\.?|[^\w\s.,'’\"()+−–-])\s*){0,2}\)?"  # %, EUR, days, million
)
_NOTHING = frozenset({"", "-", "–", "—", "?", "n/a", "na", "nan", "null", "none", "unknown", "tbd"})  # lower case


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file separates its cells: at each `separator`; `spaced` says that a space behind one means nothing."""

    separator: str = ","
    spaced: bool = False


COMMAS = Layout()


@cache
def _patterns(separator: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A quoted cell, up to the separator behind it; and a plain one, where nothing separates inside curly quotes."""
    space, mark = r"[^\S\t]*" if separator == "\t" else r"\s*", re.escape(separator)
    return re.compile(rf'{space}"(?:[^"]|"")*"{space}(?={mark}|\Z)'), re.compile(rf"(?:“[^”]*”|[^{mark}])*")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text, stripped and unquoted, and whether quotes surrounded it."""

    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """A record cut into columns: the texts in the file's order, and in words what had to be repaired."""

    cells: list[str]
    repairs: list[str]


def records(text: str, layout: Layout) -> Iterator[str]:
    """The records of a file, without their ends; one without a word in it (empty, or separators alone) is none."""
    lines = re.sub(r"\r\n?", "\n", text).split("\n")
    start = 0
    while start < len(lines):
        end = _end(lines, start, layout)
        record = "\n".join(lines[start:end])
        if record.strip(f'{layout.separator}" \t'):
            yield record
        start = end


def _end(lines: Sequence[str], start: int, layout: Layout) -> int:
    """Behind the last line of the record that begins at `start`: the next one, where its quotes are never closed."""
    if lines[start].count('"') % 2 == 0:  # nothing is open, whatever the quotes mean
        return start + 1
    open_cell = _torn(_pieces(lines[start], layout)[0])
    if open_cell is None:
        return start + 1
    for end in range(start + 2, min(start + _MOST_LINES, len(lines)) + 1):
        if '"' in lines[end - 1] and _torn(_pieces("\n".join(lines[start:end]), layout)[0]) is None:
            return end
    return start + 1


def _torn(pieces: Sequence[str]) -> str | None:
    """The first piece whose quote is opened and never closed."""
    return next((piece for piece in map(str.strip, pieces) if piece.startswith('"') and piece.count('"') % 2), None)


def cut(record: str, csv: dict[str, Any], layout: Layout = COMMAS) -> Cut | str:
    """The columns of one record, or the reason why it has no unambiguous reading."""
    pieces, commas = _pieces(record, layout)
    if (torn := _torn(pieces)) is not None:
        return f"a quote is opened and never closed in {torn[:40]!r}"
    misprints = {i for i in commas if pieces[i].strip() in csv.get("separates_after", [])}
    separating = frozenset(i for i in range(len(pieces) - 1) if i not in commas or i in misprints)
    notes = [f"separated after {pieces[i].strip()!r}" for i in sorted(misprints)]
    cells = _cells(pieces, separating)
    if len(cells) == len(csv["columns"]):
        problem = misfit(cells, csv)
        return problem or Cut([cell.text for cell in cells], notes + _joined(pieces, separating, csv))
    if csv["optional"] and len(cells) == len(csv["columns"]) - 1:
        return _with_empty(pieces, separating, csv, notes)
    if layout.separator != ",":
        return f"{len(cells)} cells for {len(csv['columns'])} columns"
    return _changed(pieces, commas, separating, csv, notes)


def is_spaced(header: str) -> bool:
    """Whether every comma of a header has a space after it."""
    pieces, _ = _pieces(header, COMMAS)
    return len(pieces) > 1 and all(piece[:1].isspace() for piece in pieces[1:])


def misfit(cells: list[Cell], csv: dict[str, Any]) -> str | None:
    """Which typed column does not hold what it should, in words; None if all do."""
    needed = target_columns(csv)
    for column, cell in zip(csv["columns"], cells, strict=True):
        kind = csv["types"].get(column)
        if isinstance(kind, list) and cell.text not in kind:
            return f"{column} is '{cell.text}', not one of {', '.join(kind)}"
        if kind in ("number", "clock") and not _readable(cell.text, kind, csv, column in needed):
            return f"{column} is '{cell.text}', not a {'number' if kind == 'number' else 'clock time'}"
    return None


def target_columns(csv: dict[str, Any]) -> set[str]:
    """The columns that targets are made of."""
    rules = csv["targets"].values()
    return {rule[key] for rule in rules for key in ("column", "minus") if key in rule}


def _readable(text: str, kind: str, csv: dict[str, Any], needed: bool) -> bool:
    if any(text.startswith(mark) for mark in csv["missing"]):
        return True
    if not needed and kind == "number":
        return text.casefold() in _NOTHING or _AMOUNT.fullmatch(text) is not None
    return (read_number(text) if kind == "number" else read_clock(text, 0)) is not None


def _pieces(record: str, layout: Layout) -> tuple[list[str], set[int]]:
    """The raw texts between all separators outside quotes, and which of these are inner ones for the space after them.

    In a record whose commas all have a space, a space tells nothing.
    """
    quoted, plain = _patterns(layout.separator)
    pieces, position = [], 0
    while True:
        match = quoted.match(record, position) or plain.match(record, position)
        assert match is not None  # the plain pattern also matches nothing
        pieces.append(match[0])
        position = match.end() + 1
        if position > len(record):
            break
    before_space = {i for i in range(len(pieces) - 1) if pieces[i + 1][:1].isspace()}
    tells = layout.separator == "," and not layout.spaced and len(before_space) < len(pieces) - 1
    return pieces, before_space if tells else set()


def _groups(pieces: list[str], separating: frozenset[int]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for i, piece in enumerate(pieces):
        groups[-1].append(piece)
        if i in separating:
            groups.append([])
    return groups


def _cells(pieces: list[str], separating: frozenset[int]) -> list[Cell]:
    return [_cell(group) for group in _groups(pieces, separating)]


def _cell(group: list[str]) -> Cell:
    text = ",".join(group).strip()
    if len(group) == 1 and (match := _WHOLE.fullmatch(text)):
        return Cell(match[1].replace('""', '"').strip(), True)
    return Cell(text, text.startswith("“") and text.endswith("”"))


def _joined(pieces: list[str], separating: frozenset[int], csv: dict[str, Any]) -> list[str]:
    groups = zip(csv["columns"], _groups(pieces, separating), strict=True)
    return [f"{column}: joined {','.join(group).strip()!r}" for column, group in groups if len(group) > 1]


def _with_empty(pieces: list[str], separating: frozenset[int], csv: dict[str, Any], notes: list[str]) -> Cut | str:
    where = csv["columns"].index(csv["optional"])
    cells = _cells(pieces, separating)
    cells.insert(where, Cell("", False))
    problem = misfit(cells, csv)
    if problem:
        return f"a cell is missing, and without {csv['optional']} {problem}"
    shorter = {**csv, "columns": [column for column in csv["columns"] if column != csv["optional"]]}
    repairs = [f"{csv['optional']}: not in the row, left empty", *_joined(pieces, separating, shorter)]
    return Cut([cell.text for cell in cells], notes + repairs)


def _changed(
    pieces: list[str], commas: set[int], separating: frozenset[int], csv: dict[str, Any], notes: list[str]
) -> Cut | str:
    short = len(csv["columns"]) - len(separating) - 1
    counted = f"{len(separating) + 1} cells for {len(csv['columns'])} columns"
    if abs(short) > _MOST_CHANGES:
        return f"{counted}, too far apart to repair"
    free = sorted(commas - separating) if short > 0 else sorted(separating)
    cuts = [separating ^ frozenset(chosen) for chosen in combinations(free, abs(short))]
    fitting = [option for option in cuts if misfit(_cells(pieces, option), csv) is None]
    found = [option for option in fitting if _quotes_fit(_cells(pieces, option), csv)] or fitting
    if len(found) != 1:
        return f"{counted}, and {len(found) or 'no'} ways to join or separate them fit the columns"
    verb = "separated" if short > 0 else "joined"
    notes = notes + [f"{verb} after {pieces[i].strip()!r}" for i in sorted(found[0] ^ separating)]
    return Cut([cell.text for cell in _cells(pieces, found[0])], notes + _joined(pieces, found[0], csv))


def _quotes_fit(cells: list[Cell], csv: dict[str, Any]) -> bool:
    kinds = [csv["types"].get(column) for column in csv["columns"]]
    return all(cell.quoted for kind, cell in zip(kinds, cells, strict=True) if kind == "quoted")
