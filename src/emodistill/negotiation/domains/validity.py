"""What a domain file must hold beyond its keys, so that a slip in it is named when it is read and not rounds later.

The check that matters most: no prompt may show a column that gives the answer away. Target columns and outcome columns
can therefore not be listed under `fields`.
"""

from typing import TYPE_CHECKING

from emodistill.errors import UserError

if TYPE_CHECKING:
    from emodistill.negotiation.domains import Domain

_PARTS = {"situation", "focal_goal", "counterparty_goal"}
_CSV = {"columns", "id_column", "outcome", "optional", "missing", "types", "targets"}
_MORE_CSV = {"separates_after"}


def check_domain(domain: "Domain") -> None:
    """Raises UserError, naming the file and the key, at the first thing that cannot work."""
    for check in (_numbers, _words, _csv, _columns):
        if problem := check(domain):
            raise UserError(f"domains/{domain.name}.yaml: {problem}")


def _numbers(domain: "Domain") -> str | None:
    numbers = (domain.grid, *domain.bounds, domain.clock_origin)
    if len(domain.bounds) != 2 or not all(isinstance(number, int | float) for number in numbers):
        return "`grid`, `clock_origin` and the two `bounds` must be numbers"
    if domain.grid <= 0 or domain.bounds[0] >= domain.bounds[1]:
        return "`grid` must be above 0, and `bounds` [smallest, largest]"
    return None if domain.style in {"duration", "clock"} else f"`style` is '{domain.style}', not duration or clock"


def _words(domain: "Domain") -> str | None:
    if set(domain.roles) != {"focal", "counterparty"}:
        return "`roles` must name `focal` and `counterparty`"
    if set(domain.prompt) != _PARTS:
        return f"`prompt` must hold {', '.join(sorted(_PARTS))}"
    empty = [slot for slot, phrases in domain.slots.items() if not isinstance(phrases, list) or not phrases]
    return f"`slots` need a list of phrases for {empty}" if empty else None


def _csv(domain: "Domain") -> str | None:
    missing, extra = sorted(_CSV - set(domain.csv)), sorted(set(domain.csv) - _CSV - _MORE_CSV)
    if missing or extra:
        return f"`csv` has missing keys {missing}, unknown keys {extra}"
    return None if set(domain.csv["targets"]) == set(domain.roles) else "`csv.targets` must name focal and counterparty"


def _columns(domain: "Domain") -> str | None:
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


def _targets(domain: "Domain") -> set[str]:
    rules = domain.csv["targets"].values()
    return {rule[key] for rule in rules for key in ("column", "minus") if key in rule}
