"""Scenarios: who wants what, in which situation; and the four published scenario files (CSV) read as scenarios.

Reading a file gives an audit of every repair and every excluded row; `python -m emodistill.negotiation FILE DOMAIN`
prints it. How a ragged row is repaired stands in `csv_repair`. A row whose target is not a number ("Variable",
"N/A (listed)") or outside the domain's bounds is excluded and named, since nothing is negotiable in it; so is a row
without an unambiguous reading. A file of another shape, an id used twice or equal targets are mistakes, and raise.
"""

import logging
import math
import os
import re
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from emodistill.errors import UserError
from emodistill.negotiation.csv_repair import COMMAS, SEPARATORS, Cut, Layout, cut, is_spaced, records
from emodistill.negotiation.domains import Domain, load_domain
from emodistill.negotiation.targets import NotNumericError, targets_of

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scenario:
    """One situation to negotiate over.

    Attributes:
        id: unique among all scenarios, e.g. `debt-017`.
        domain: name of the domain.
        focal_target: c, what the focal side wants, in the domain's unit.
        counterparty_target: d, what the counterparty wants, in the same unit; never equal to c.
        context: the situation, keyed by column name; no outcome column is ever in it.
    """

    id: str
    domain: str
    focal_target: float
    counterparty_target: float
    context: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        targets = (self.focal_target, self.counterparty_target)
        if not all(isinstance(target, int | float) and math.isfinite(target) for target in targets):
            raise UserError(f"scenario {self.id}: the targets must be finite numbers, not {targets}")
        if self.focal_target == self.counterparty_target:
            raise UserError(f"scenario {self.id}: both targets are {self.focal_target:g}, so nothing is negotiable")

    @property
    def rules(self) -> Domain:
        """The domain this scenario belongs to."""
        return load_domain(self.domain)

    def position(self, value: float) -> float:
        """x(v) = (d - v) / (d - c): 1 at the focal side's target, 0 at the counterparty's."""
        return (self.counterparty_target - value) / (self.counterparty_target - self.focal_target)

    def value_at(self, position: float) -> float:
        """The value, in the domain's unit, at a position: the inverse of `position`."""
        return self.counterparty_target - position * (self.counterparty_target - self.focal_target)

    def mirrored(self) -> "Scenario":
        """The scenario as the other side sees it: targets exchanged, so position 1 is the counterparty's target."""
        return replace(self, focal_target=self.counterparty_target, counterparty_target=self.focal_target)

    def utility(self, value: float | None) -> float:
        """Utility of an episode to the focal side, in [0, 1]: the clipped position of the deal, 0 without one."""
        return 0.0 if value is None else min(max(self.position(value), 0.0), 1.0)


def load_csv(path: str | Path, domain: str, separator: str = "comma") -> list[Scenario]:
    """The scenarios of a CSV file; excluded rows are logged, `read_csv` gives the full audit.

    Raises:
        UserError: naming the file and the row or column at fault.
    """
    scenarios, audit = read_csv(path, domain, separator)
    for item in audit.exclusions:
        _LOGGER.warning("%s: row %d (%s) is excluded: %s", path, item.row, item.id, item.reason)
    return scenarios


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done to one row. `row` counts data rows from 1, `id` is the scenario it became."""

    row: int
    id: str
    what: str


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why one row gave no scenario. `row` counts data rows from 1, `id` is the scenario it would have been."""

    row: int
    id: str
    reason: str


@dataclass(slots=True)
class Audit:
    """What happened to the rows of one file: `rows` data rows were read, the rest is listed row by row."""

    file: str
    domain: str
    rows: int = 0
    repairs: list[Repair] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)

    def __str__(self) -> str:
        repaired = len({repair.row for repair in self.repairs})
        head = f"{self.file} ({self.domain}): {self.rows} rows, {self.rows - len(self.exclusions)} scenarios, "
        lines = [head + f"{repaired} rows repaired, {len(self.exclusions)} excluded"]
        lines += [f"  excluded row {item.row} ({item.id}): {item.reason}" for item in self.exclusions]
        lines += [f"  repaired row {item.row} ({item.id}): {item.what}" for item in self.repairs]
        return "\n".join(lines)


def read_csv(path: str | Path, domain: str, separator: str = "comma") -> tuple[list[Scenario], Audit]:
    """The scenarios of a file and the audit of how they were read.

    Ids are `<domain>-csv-<row>`, counted from 000 over all data rows, so an excluded row leaves a gap. `context` holds
    every column except the outcome columns, as the file has it, stripped.

    Args:
        separator: `comma`, `semicolon` or `tab`.

    Raises:
        UserError: naming the file and the row or column: no such file, not UTF-8, another header or separator, an id
            used twice, equal targets, or no row that can be used.
    """
    rules, path = load_domain(domain), Path(os.path.expanduser(path))
    if separator not in SEPARATORS:
        raise UserError(f"scenarios.separator={separator}: use {', '.join(SEPARATORS)}")
    text = _text(path)
    layout = Layout(SEPARATORS[separator])
    header = next(records(text, layout))
    _check_header(path, rules, header, layout)
    layout = Layout(layout.separator, layout == COMMAS and is_spaced(header))
    audit, scenarios = Audit(path.name, domain), []
    seen: dict[str, int] = {}
    for audit.rows, record in enumerate(islice(records(text, layout), 1, None), start=1):
        context = _context(rules, record, layout, audit)
        if context is None:
            continue
        scenario = _scenario(path, rules, context, audit)
        case = context.get(rules.csv["id_column"] or "", scenario.id if scenario else "")
        if case in seen and case:
            raise UserError(f"{path}: rows {seen[case]} and {audit.rows} have the same id '{case}'; change one of them")
        seen[case] = audit.rows
        scenarios += [scenario] if scenario else []
    if not scenarios:
        raise UserError(f"{path}: none of its {audit.rows} rows gives a scenario of domain '{domain}'. {_first(audit)}")
    return scenarios, audit


def _first(audit: Audit) -> str:
    return f"Row 1: {audit.exclusions[0].reason}" if audit.exclusions else "Add rows below the header"


def _text(path: Path) -> str:
    """The content of a file, without the line `sep=;` that Excel may put first."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of a scenario CSV file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8 CSV") from error
    if "\0" in text:
        raise UserError(f"{path} is not UTF-8 text (byte {text.index(chr(0))} is zero); save it as UTF-8 CSV")
    text = re.sub(r"\Asep=.\s*\n", "", text)
    if not text.strip(',;"\t\r\n '):
        raise UserError(f"{path} is empty; its first line must be the header of a scenario file")
    return text


def _check_header(path: Path, rules: Domain, header: str, layout: Layout) -> None:
    expected = rules.csv["columns"]
    names = _names(header, expected, layout)
    if names == expected:
        return
    for name, mark in SEPARATORS.items():
        if mark != layout.separator and _names(header, expected, Layout(mark)) == expected:
            raise UserError(
                f"{path} separates its columns by {name}s; give scenarios.separator={name} (of read_csv and load_csv: "
                f"separator='{name}')"
            )
    wrong = next((i for i, name in enumerate(expected) if i >= len(names) or names[i] != name), len(expected))
    found = f"'{' '.join(names[wrong].split())[:60]}'" if wrong < len(names) else "nothing"
    wanted = f"'{expected[wrong]}'" if wrong < len(expected) else "nothing more"
    raise UserError(
        f"{path}: column {wrong + 1} of the header is {found}, domain '{rules.name}' needs {wanted}; "
        f"check the domain, or make the header that of domains/{rules.name}.yaml"
    )


def _names(header: str, expected: list[str], layout: Layout) -> list[str]:
    """The columns that a header names; where it cannot be cut into as many as are expected, at every separator."""
    given = cut(header, {"columns": expected, "types": {}, "optional": None, "missing": [], "targets": {}}, layout)
    if isinstance(given, str):
        return [name.strip().strip('"') for name in header.split(layout.separator)]
    return given.cells


def _context(rules: Domain, record: str, layout: Layout, audit: Audit) -> dict[str, str] | None:
    found, name = cut(record, rules.csv, layout), _id(rules, audit)
    if not isinstance(found, Cut):
        audit.exclusions.append(Exclusion(audit.rows, name, found))
        return None
    audit.repairs += [Repair(audit.rows, name, what) for what in found.repairs]
    pairs = zip(rules.csv["columns"], found.cells, strict=True)
    return {column: cell for column, cell in pairs if column not in rules.csv["outcome"]}


def _scenario(path: Path, rules: Domain, context: dict[str, str], audit: Audit) -> Scenario | None:
    name = _id(rules, audit)
    try:
        targets = targets_of(rules, context)
        reason = _out_of_bounds(rules, context, targets)
        if reason is None:
            return Scenario(name, rules.name, *targets, context)
    except NotNumericError as error:
        reason = f"{error}: no target to negotiate towards"
    except UserError as error:
        raise UserError(f"{path}, row {audit.rows}: {error}; correct or remove the row") from error
    audit.exclusions.append(Exclusion(audit.rows, name, reason))
    return None


def _out_of_bounds(rules: Domain, context: dict[str, str], targets: tuple[float, float]) -> str | None:
    """Which target nobody could offer, in words; None if both lie within the domain's bounds."""
    low, high = rules.bounds
    for side, target in zip(("focal", "counterparty"), targets, strict=True):
        if not rules.allows(target):
            column = rules.csv["targets"][side]["column"]
            return (
                f"{column} is '{context[column]}', which makes {rules.say(target)} the target of the {side} side, "
                f"outside the domain's bounds, {rules.say(low)} to {rules.say(high)}"
            )
    return None


def _id(rules: Domain, audit: Audit) -> str:
    return f"{rules.name}-csv-{audit.rows - 1:03d}"
