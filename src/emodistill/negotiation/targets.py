"""Both sides' targets from a scenario's context columns, by the rules of the domain's YAML file.

The same function serves generated and imported scenarios, so a context that is read back from a file gives the targets
it was generated with. A rule names a `column` and adjusts what stands there:

- `minus`: another column, subtracted; `plus_when: {column, equals, plus}`: an amount added for one value of a column
- `at_least`: never less than this
- `at_least_beyond_other`: never less than the other side's target plus this
- `beyond_other_else`: the other side's target plus this, where the rule would not end above it
"""

import re
from typing import Any

from emodistill.errors import UserError
from emodistill.negotiation.domains import Domain

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
_CLOCK = re.compile(r"(1[0-2]|0?[1-9]):([0-5]\d) ?([AP])M", re.IGNORECASE)
_OWN = {"column", "minus", "plus_when", "at_least"}
_RELATIVE = {"at_least_beyond_other", "beyond_other_else"}


class NotNumericError(UserError):
    """A target column holds words such as "Variable" where a number or a clock time belongs."""


def read_number(cell: str) -> float | None:
    """The number a cell holds, None where it holds anything else (also "nan", "inf" and "1e5")."""
    return float(cell) if _NUMBER.fullmatch(cell.strip()) else None


def read_clock(cell: str, origin: int) -> float | None:
    """Minutes after `origin` o'clock, within half a day of it: with 21, "2:00 AM" is 300 and "8:30 PM" is -30."""
    match = _CLOCK.fullmatch(cell.strip())
    if match is None:
        return None
    minutes = (int(match[1]) % 12 + (12 if match[3].upper() == "P" else 0)) * 60 + int(match[2])
    return float((minutes - origin * 60 + 720) % 1440 - 720)


def targets_of(domain: Domain, context: dict[str, str]) -> tuple[float, float]:
    """(focal target, counterparty target) in the domain's unit.

    Raises:
        NotNumericError: if a target column does not hold a number (or a clock time, in a clock domain).
        UserError: if the domain's rules name an unknown key or a column that the context lacks.
    """
    rules = domain.csv["targets"]
    focal, counterparty = (_own(domain, rules[side], context) for side in ("focal", "counterparty"))
    return _relative(rules["focal"], focal, counterparty), _relative(rules["counterparty"], counterparty, focal)


def _own(domain: Domain, rule: dict[str, Any], context: dict[str, str]) -> float:
    unknown = sorted(set(rule) - _OWN - _RELATIVE)
    if unknown:
        raise UserError(f"domains/{domain.name}.yaml: unknown keys {unknown} in csv.targets; see docs/scenarios.md")
    value = _read(domain, rule["column"], context)
    if "minus" in rule:
        value -= _read(domain, rule["minus"], context)
    if "plus_when" in rule and _cell(domain, rule["plus_when"]["column"], context) == rule["plus_when"]["equals"]:
        value += rule["plus_when"]["plus"]
    return max(value, float(rule.get("at_least", value)))


def _relative(rule: dict[str, Any], value: float, other: float) -> float:
    if "at_least_beyond_other" in rule:
        return max(value, other + float(rule["at_least_beyond_other"]))
    if "beyond_other_else" in rule and value <= other:
        return other + float(rule["beyond_other_else"])
    return value


def _cell(domain: Domain, column: str, context: dict[str, str]) -> str:
    if column not in context:
        raise UserError(f"domain {domain.name}: the context lacks the column '{column}' that its targets come from")
    return context[column]


def _read(domain: Domain, column: str, context: dict[str, str]) -> float:
    cell = _cell(domain, column, context)
    clock = domain.csv["types"].get(column) == "clock"
    value = read_clock(cell, domain.clock_origin) if clock else read_number(cell)
    if value is None:
        wanted = "a clock time such as 10:30 PM" if clock else "a number"
        raise NotNumericError(f"{column} is '{cell}', not {wanted}")
    return value
