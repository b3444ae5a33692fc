"""A negotiation domain is one YAML file in this folder: roles, quantity, unit, fields, prompt parts, rubric.

Domains of imported dialogues alone lie in the folder `imported_domains` beside this one.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from emodistill.errors import UserError
from emodistill.files import load_yaml

_FOLDER = files("emodistill.negotiation.domains")
_IMPORTED = files("emodistill.negotiation") / "imported_domains"
_PARTS = {"situation", "focal_goal", "counterparty_goal"}
_PHRASES = {"empty_threats", "capitulation", "deal_words", "terms"}  # of a rubric, which the judge looks for
_CSV = {"columns", "id_column", "outcome", "optional", "missing", "types", "targets"}
_MORE_CSV = {"separates_after"}
_LARGEST = 99_999  # the offer parser reads numbers of up to five digits, without a sign


@dataclass(frozen=True)
class Domain:
    """What the code needs to know of a domain; every word of it comes from the YAML file.

    Attributes:
        name: `debt`, `disaster`, `hospital` or `student`, or the name of a file you add; `campsite` is imported only.
        quantity: what is bargained over, in words ("time to full payment").
        unit: the unit of every offer ("days", "minutes", "minutes after 21:00").
        style: how offers are read and said: `duration` in `unit`, or `clock` as minutes after `clock_origin`.
        clock_origin: for `clock`, the hour that is 0 (21 for 21:00).
        grid: offers are multiples of this many units.
        bounds: smallest and largest offer that makes sense, in units.
        roles: `{"focal": "creditor", "counterparty": "debtor"}`.
        fields: context columns: `{column: {"label": words for the prompt, "seen_by": side}}` with the side `both`,
            `focal` or `counterparty`. A column that is not listed is seen by nobody.
        prompt: prompt parts by name (`situation`, `focal_goal`, `counterparty_goal`), with `{slots}`.
        rubric: what the judge of this domain looks for (strings and word lists by name).
        csv: how the published CSV of this domain is read (columns, targets, outcome columns).
        generator: word lists and ranges from which scenarios are generated.
        slots: domain words for the phrasebook, by slot name.
    """

    name: str
    quantity: str
    unit: str
    style: str
    clock_origin: int
    grid: float
    bounds: tuple[float, float]
    roles: dict[str, str]
    fields: dict[str, dict[str, str]]
    prompt: dict[str, str]
    rubric: dict[str, Any]
    csv: dict[str, Any]
    generator: dict[str, Any]
    slots: dict[str, list[str]]

    def allows(self, value: float) -> bool:
        """Whether an offer of this number lies within the bounds."""
        return self.bounds[0] <= value <= self.bounds[1]

    def snap(self, value: float) -> float:
        """The nearest offer one can say: on the grid, within the bounds."""
        low, high = self.bounds
        return min(max(round(value / self.grid) * self.grid, low), high)

    def say(self, value: float) -> str:
        """An offer in words that the offer parser reads back exactly: "45 days", "90 minutes", "10:30 PM"."""
        if self.style == "clock":
            minutes = (round(value) + self.clock_origin * 60) % (24 * 60)
            hour, minute = divmod(minutes, 60)
            return f"{(hour - 1) % 12 + 1}:{minute:02d} {'AM' if hour < 12 else 'PM'}"
        number = f"{value:g}"
        return f"{number} {self.unit.removesuffix('s') if number == '1' else self.unit}"


def domain_names() -> list[str]:
    """Names of all domains in which scenarios can be made and played, in alphabetical order."""
    return _names_in(_FOLDER)


def imported_domain_names() -> list[str]:
    """Names of the domains that only dialogues from elsewhere belong to: they lack generator and phrasebook slots."""
    return _names_in(_IMPORTED)


def _names_in(folder: Traversable) -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@cache
def load_domain(name: str) -> Domain:
    """Read a domain by name.

    Raises:
        UserError: if there is no such domain, or its file lacks a key or has one too many.
    """
    try:
        raw = load_yaml(domain_text(name))
    except yaml.YAMLError as error:
        raise UserError(f"domains/{name}.yaml is not valid YAML: {' '.join(str(error).split())}") from error
    expected = set(Domain.__dataclass_fields__)
    given = set(raw) if isinstance(raw, dict) else set()
    if given != expected:
        missing, extra = sorted(expected - given), sorted(given - expected)
        raise UserError(f"domains/{name}.yaml: missing keys {missing}, unknown keys {extra}")
    domain = _typed(name, raw)
    _check(domain)
    return domain


def domain_text(name: str) -> str:
    """The YAML of a domain, as it stands in its file.

    Raises:
        UserError: if there is no such domain.
    """
    folder = _FOLDER if name in domain_names() else _IMPORTED
    if name not in _names_in(folder):
        imported = f"and for imported dialogues {', '.join(imported_domain_names())}"
        raise UserError(f"no domain '{name}'; there are: {', '.join(domain_names())}, {imported}")
    return (folder / f"{name}.yaml").read_text(encoding="utf-8")


def _typed(name: str, raw: dict[str, Any]) -> Domain:
    kinds = {"bounds": list, "prompt": dict, "roles": dict, "fields": dict, "csv": dict, "generator": dict}
    kinds |= {"slots": dict, "rubric": dict, "name": str, "unit": str, "quantity": str, "style": str}
    wrong = [f"`{key}` must be a {kind.__name__}" for key, kind in kinds.items() if not isinstance(raw[key], kind)]
    if wrong or raw["name"] != name:
        raise UserError(f"domains/{name}.yaml: {', '.join(wrong) or f'`name` must be {name}, as the file is called'}")
    return Domain(**{**raw, "bounds": tuple(raw["bounds"])})


def _check(domain: Domain) -> None:
    """Raises UserError at the first thing that would only go wrong rounds later.

    The check that matters most: no prompt may show a column that gives the answer away. Target columns and outcome
    columns can therefore not be listed under `fields`.
    """
    checks = {
        "`bounds`": _numbers,
        "`slots`": _words,
        "`rubric`": _rubric,
        "`csv`": _csv,
        "`csv` or `fields`": _columns,
    }
    for keys, check in checks.items():
        try:
            problem = check(domain)
        except (TypeError, AttributeError, KeyError) as error:  # such as nothing where a list belongs
            problem = f"something under {keys} is not of the form that docs/scenarios.md shows ({error})"
        if problem:
            raise UserError(f"domains/{domain.name}.yaml: {problem}")


def _numbers(domain: Domain) -> str | None:
    numbers = (domain.grid, *domain.bounds, domain.clock_origin)
    if len(domain.bounds) != 2 or not all(isinstance(number, int | float) for number in numbers):
        return "`grid`, `clock_origin` and the two `bounds` must be numbers"
    if domain.grid <= 0 or domain.bounds[0] >= domain.bounds[1]:
        return "`grid` must be above 0, and `bounds` [smallest, largest]"
    if domain.style == "duration" and not 0 <= domain.bounds[0] < domain.bounds[1] <= _LARGEST:
        return f"`bounds` must lie within 0 and {_LARGEST:,}, for nobody would hear another number; take a larger unit"
    return None if domain.style in {"duration", "clock"} else f"`style` is '{domain.style}', not duration or clock"


def _words(domain: Domain) -> str | None:
    if set(domain.roles) != {"focal", "counterparty"}:
        return "`roles` must name `focal` and `counterparty`"
    if set(domain.prompt) != _PARTS:
        return f"`prompt` must hold {', '.join(sorted(_PARTS))}"
    empty = [slot for slot, phrases in domain.slots.items() if not isinstance(phrases, list) or not phrases]
    return f"`slots` need a list of phrases for {empty}" if empty else None


def _rubric(domain: Domain) -> str | None:
    rubric = domain.rubric
    if unknown := sorted(rubric.keys() - {"text"} - _PHRASES):
        return f"`rubric` has unknown keys {unknown}; it may hold text, {', '.join(sorted(_PHRASES))}"
    if not isinstance(rubric.get("text", ""), str):
        return "`rubric.text` must be a text"
    for key in sorted(_PHRASES & rubric.keys()):
        phrases = rubric[key]
        if not isinstance(phrases, list) or not phrases or not all(isinstance(one, str) and one for one in phrases):
            return f"`rubric.{key}` must be a list of phrases, such as [one, two]"
    return None


def _csv(domain: Domain) -> str | None:
    missing, extra = sorted(_CSV - set(domain.csv)), sorted(set(domain.csv) - _CSV - _MORE_CSV)
    if missing or extra:
        return f"`csv` has missing keys {missing}, unknown keys {extra}"
    return None if set(domain.csv["targets"]) == set(domain.roles) else "`csv.targets` must name focal and counterparty"


def _columns(domain: Domain) -> str | None:
    csv = domain.csv
    named = {csv["id_column"], csv["optional"], *csv["outcome"], *csv["types"], *domain.fields, *_targets(domain)}
    unknown = sorted(named - {None} - set(csv["columns"]))
    if unknown:
        return f"{unknown} are not among `csv.columns`"
    secret = sorted(set(domain.fields) & {*csv["outcome"], *_targets(domain)})
    if secret:
        return f"`fields` lists {secret}, which give a target or the outcome away"
    odd = [c for c, field in domain.fields.items() if field.get("seen_by") not in {"both", "focal", "counterparty"}]
    odd += [column for column, field in domain.fields.items() if not field.get("label")]
    return f"`fields` need a `label` and `seen_by` both, focal or counterparty: {odd}" if odd else None


def _targets(domain: Domain) -> set[str]:
    rules = domain.csv["targets"].values()
    return {rule[key] for rule in rules for key in ("column", "minus") if key in rule}
