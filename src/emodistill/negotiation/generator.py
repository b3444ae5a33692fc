"""Scenarios drawn from the word lists and ranges of a domain's YAML file.

A row is put together along *axes*: each axis is a list of cases, and a case fixes the columns that must agree with each
other (a crevasse fall and what it calls for, a stage of recovery and how long the debt is overdue). Cases of an axis
are dealt like cards, every one once before any comes again, so a hundred scenarios cover all of them evenly. Columns
come out under the names of the published file, and the targets from the same rules as those of an imported row.

What may stand behind a column:

- a list: one of its entries; a text or number: itself
- `{range: [low, high], step}`: a number, both ends included; `{clock: [low, high], step}`: the same as a clock time
- `{product: [columns], scale: x or [low, high], offset, low, high, step, digits}`, `{sum: [columns]}`: from others
- `{after: column, by: [low, high], step}`: a later clock time; `{date: 2025-06-30, minus: column}`: days before a date

Texts may hold `{Column}` slots. A column whose name begins with `_` only serves others and is left out of the context.
"""

import datetime
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from emodistill.errors import UserError
from emodistill.negotiation.domains import Domain, imported_domain_names, load_domain
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.targets import read_clock, targets_of

_TRIES = 200  # draws without a new situation before the word lists count as exhausted
_KINDS = ("range", "clock", "product", "sum", "after", "date")


def generate_scenarios(domain: str, count: int = 100, seed: int = 0) -> list[Scenario]:
    """`count` scenarios that read differently, ids `<domain>-000` on; the first n do not depend on `count`.

    Raises:
        UserError: if the domain is unknown, its generator section is faulty, or its word lists give too few situations.
    """
    rules = load_domain(domain)
    rows, scenarios, seen = _rows(rules, np.random.default_rng((seed, zlib.crc32(domain.encode())))), [], set()
    for i in range(count):
        context = next((row for row in (next(rows) for _ in range(_TRIES)) if _shown(rules, row) not in seen), None)
        if context is None:
            raise UserError(
                f"domains/{domain}.yaml: the generator's lists give fewer than {count} different scenarios; add "
                "to them, or use a smaller scenarios.per_domain"
            )
        seen.add(_shown(rules, context))
        if rules.csv["id_column"]:
            context = {rules.csv["id_column"]: str(i + 1), **context}
        ordered = {column: context[column] for column in rules.csv["columns"] if column not in rules.csv["outcome"]}
        targets = targets_of(rules, ordered)
        if not all(map(rules.allows, targets)):
            low, high = rules.bounds
            raise UserError(
                f"domains/{domain}.yaml: the generator gives the targets {targets[0]:g} and {targets[1]:g}, outside "
                f"`bounds` {low:g} to {high:g}, so nobody could offer them"
            )
        scenarios.append(Scenario(f"{domain}-{i:03d}", domain, *targets, ordered))
    return scenarios


def _shown(rules: Domain, row: dict[str, str]) -> tuple[str, ...]:
    """What the two sides read of a row: two scenarios that differ only in hidden columns are one situation twice."""
    return tuple(row[column] for column in sorted(rules.fields) if column in row) or tuple(row.values())


def _rows(rules: Domain, rng: np.random.Generator) -> Iterator[dict[str, str]]:
    """Contexts without end, without their id column."""
    section = rules.generator
    if not section and rules.name in imported_domain_names():
        raise UserError(
            f"the domain '{rules.name}' is for imported dialogues and has no scenarios of its own; give the corpus "
            "that brings it, or leave it out of domains=[...]"
        )
    if set(section) != {"common", "axes"} or not section["axes"]:
        raise UserError(
            f"domains/{rules.name}.yaml: `generator` needs the keys `common` and `axes`, and at least one axis"
        )
    hands = [_deal(cases, rng) for cases in section["axes"].values()]
    wanted = set(rules.csv["columns"]) - set(rules.csv["outcome"]) - {rules.csv["id_column"]}
    while True:
        specs = dict(section["common"])
        for hand in hands:
            specs.update(next(hand))
        row = _row(rules, specs, rng)
        given = {column for column in row if not column.startswith("_")}
        if given != wanted:
            raise UserError(
                f"domains/{rules.name}.yaml: the generator leaves out the columns {sorted(wanted - given)} "
                f"and has unknown ones {sorted(given - wanted)}"
            )
        yield {column: row[column] for column in sorted(given)}


def _deal(cases: list[dict[str, Any]], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    while True:
        for i in rng.permutation(len(cases)):
            yield cases[i]


def _row(rules: Domain, specs: dict[str, Any], rng: np.random.Generator) -> dict[str, str]:
    row: dict[str, str] = {}
    for derived in (False, True):
        for column, spec in specs.items():
            if (isinstance(spec, dict) and not {"range", "clock"} & set(spec)) is derived:
                row[column] = _value(rules, column, spec, row, rng)
    try:
        return {column: text.format_map(row) if "{" in text else text for column, text in row.items()}
    except KeyError as error:
        raise UserError(
            f"domains/{rules.name}.yaml: a text of the generator has a slot {error}, not a column"
        ) from error


def _value(rules: Domain, column: str, spec: Any, row: dict[str, str], rng: np.random.Generator) -> str:
    if isinstance(spec, list):
        return str(spec[rng.integers(len(spec))])
    if not isinstance(spec, dict):
        return str(spec)
    kind = next((kind for kind in _KINDS if kind in spec), None)
    try:
        return _drawn(rules, kind, spec, row, rng)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"domains/{rules.name}.yaml: the generator cannot draw '{column}' from {spec} ({error!r})"
        ) from error


def _drawn(rules: Domain, kind: str | None, spec: dict[str, Any], row: dict[str, str], rng: np.random.Generator) -> str:
    if kind == "range":
        return f"{_step(spec['range'], spec, rng):.{spec.get('digits', 0)}f}"
    if kind == "clock":
        return rules.say(_step(spec["clock"], spec, rng))
    if kind == "after":
        start = read_clock(row[spec["after"]], rules.clock_origin)
        return rules.say(float(start or 0) + _step(spec["by"], spec, rng))
    if kind == "date":
        return str(spec["date"] - datetime.timedelta(days=int(row[spec["minus"]])))
    if kind is None:
        raise ValueError(f"none of {', '.join(_KINDS)}")
    numbers = [float(row[name]) for name in spec[kind]]
    scale = spec.get("scale", 1)
    factor = float(rng.uniform(*scale)) if isinstance(scale, list) else float(scale)
    value = float(np.prod(numbers) if kind == "product" else np.sum(numbers)) * factor + spec.get("offset", 0)
    return _number(min(max(value, spec.get("low", -math.inf)), spec.get("high", math.inf)), spec)


def _step(ends: list[float], spec: dict[str, Any], rng: np.random.Generator) -> float:
    step = spec.get("step", 1)
    steps = int((ends[1] - ends[0]) / step + 1e-9)  # 0.3 / 0.1 is a little less than 3
    return float(ends[0] + step * rng.integers(steps + 1))


def _number(value: float, spec: dict[str, Any]) -> str:
    step = spec.get("step")
    return f"{round(value / step) * step if step else value:.{spec.get('digits', 0)}f}"
