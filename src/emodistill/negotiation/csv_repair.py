"""One record of a published scenario file, cut into its columns although its inner commas are unquoted.

In those files a comma that separates has no space after it and an inner one mostly has. So, in this order:

1. A comma inside a quoted cell or inside curly quotes never separates; one before a space does not; any other does.
2. Where the cells are as many as the columns and every typed column (number, clock time, Yes/No, enumeration) holds
   what it should, that is the row.
3. Where exactly one cell is missing and the domain names a column that its file leaves out (`optional`), that column
   is empty, provided that every typed column then fits.
4. Else the fewest commas that make the count right change their part (a missing cell: commas before a space separate;
   one too many: other commas do not), provided that exactly one such choice fits every typed column. Where several
   fit, the one with quotes around the column of type `quoted` counts.
5. Anything else is given up with a reason: a cell is never put into a column by a guess.

`separates_after` lists, in the domain's file, the texts after which a comma before a space does separate: misprints
found by reading the rows one by one.
"""

import re
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from emodistill.negotiation.targets import read_clock, read_number

_QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*(?=,|$)')
_PLAIN = re.compile(r"(?:“[^”]*”|[^,])*")
_MOST_CHANGES = 2  # a row further from its columns than this is not repaired


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


def cut(record: str, csv: dict[str, Any]) -> Cut | str:
    """The columns of one record (a line without its end), or the reason why it has no unambiguous reading."""
    pieces, commas = _pieces(record)
    torn = next((piece for piece in pieces if piece.startswith('"') and piece.count('"') % 2), None)
    if torn is not None:
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
    return _changed(pieces, commas, separating, csv, notes)


def misfit(cells: list[Cell], csv: dict[str, Any]) -> str | None:
    """Which typed column does not hold what it should, in words; None if all do."""
    for column, cell in zip(csv["columns"], cells, strict=True):
        kind = csv["types"].get(column)
        if isinstance(kind, list) and cell.text not in kind:
            return f"{column} is '{cell.text}', not one of {', '.join(kind)}"
        if kind in ("number", "clock") and not _readable(cell.text, kind, csv):
            return f"{column} is '{cell.text}', not a {'number' if kind == 'number' else 'clock time'}"
    return None


def _readable(text: str, kind: str, csv: dict[str, Any]) -> bool:
    if any(text.startswith(mark) for mark in csv["missing"]):
        return True
    return (read_number(text) if kind == "number" else read_clock(text, 0)) is not None


def _pieces(record: str) -> tuple[list[str], set[int]]:
    """The raw texts between all commas outside quotes, and which of these commas have a space after them."""
    pieces, position = [], 0
    while True:
        match = _QUOTED.match(record, position) or _PLAIN.match(record, position)
        assert match is not None  # the plain pattern also matches nothing
        pieces.append(match[0])
        position = match.end() + 1
        if position > len(record):
            break
    return pieces, {i for i in range(len(pieces) - 1) if pieces[i + 1][:1].isspace()}


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
    if len(group) == 1 and (match := _QUOTED.fullmatch(text)):
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
