"""Scenarios: who wants what, in which situation; and the four published scenario files (CSV) read as scenarios.

Reading a file gives an audit of every repair and every excluded row; `python -m emodistill.negotiation FILE DOMAIN`
prints it. How a ragged row is repaired stands in `csv_repair`. A row whose target is not a number ("Variable",
"N/A (listed)") is excluded and named, since nothing is negotiable in it; so is a row without an unambiguous reading. A
file of another shape, an id used twice or equal targets are mistakes, and raise.
"""

import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from emodistill.errors import UserError
from emodistill.negotiation.csv_repair import Cut, cut
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


def load_csv(path: str | Path, domain: str) -> list[Scenario]:
    """The scenarios of a published CSV file; excluded rows are logged, `read_csv` gives the full audit.

    Raises:
        UserError: naming the file and the row or column at fault.
    """
    scenarios, audit = read_csv(path, domain)
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


def read_csv(path: str | Path, domain: str) -> tuple[list[Scenario], Audit]:
    """The scenarios of a published file and the audit of how they were read.

    Ids are `<domain>-csv-<row>`, counted from 000 over all data rows, so an excluded row leaves a gap. `context` holds
    every column except the outcome columns, as the file has it, stripped.

    Raises:
        UserError: naming the file and the row or column: no such file, not UTF-8, another header, an id used twice,
            equal targets, or no row that can be used.
    """
    rules, path = load_domain(domain), Path(path)
    header, *records = _lines(path)
    _check_header(path, rules, header)
    audit, scenarios = Audit(path.name, domain), []
    seen: dict[str, int] = {}
    for audit.rows, record in enumerate(records, start=1):
        context = _context(rules, record, audit)
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


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of a scenario CSV file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8 CSV") from error
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; its first line must be the header of a scenario file")
    return lines


def _check_header(path: Path, rules: Domain, header: str) -> None:
    expected = rules.csv["columns"]
    given = cut(header, {"columns": expected, "types": {}, "optional": None, "missing": []})
    if isinstance(given, str) or given.cells != expected:
        names = [name.strip().strip('"') for name in header.split(",")]
        wrong = next((i for i, name in enumerate(expected) if i >= len(names) or names[i] != name), len(expected))
        found = f"'{names[wrong]}'" if wrong < len(names) else "nothing"
        wanted = f"'{expected[wrong]}'" if wrong < len(expected) else "nothing more"
        raise UserError(
            f"{path}: column {wrong + 1} of the header is {found}, domain '{rules.name}' needs {wanted}; "
            f"check the domain, or make the header that of domains/{rules.name}.yaml"
        )


def _context(rules: Domain, record: str, audit: Audit) -> dict[str, str] | None:
    found, name = cut(record, rules.csv), _id(rules, audit)
    if not isinstance(found, Cut):
        audit.exclusions.append(Exclusion(audit.rows, name, found))
        return None
    audit.repairs += [Repair(audit.rows, name, what) for what in found.repairs]
    pairs = zip(rules.csv["columns"], found.cells, strict=True)
    return {column: cell for column, cell in pairs if column not in rules.csv["outcome"]}


def _scenario(path: Path, rules: Domain, context: dict[str, str], audit: Audit) -> Scenario | None:
    name = _id(rules, audit)
    try:
        return Scenario(name, rules.name, *targets_of(rules, context), context)
    except NotNumericError as error:
        audit.exclusions.append(Exclusion(audit.rows, name, f"{error}: no target to negotiate towards"))
        return None
    except UserError as error:
        raise UserError(f"{path}, row {audit.rows}: {error}; correct or remove the row") from error


def _id(rules: Domain, audit: Audit) -> str:
    return f"{rules.name}-csv-{audit.rows - 1:03d}"
