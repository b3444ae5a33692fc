"""The page: one HTML file that needs nothing else, from verdicts down to single words.

Words in it come from language models, corpora and users, so all of it is data: the template escapes, scripts only ever
set text, JSON cannot end its script element, and a content security policy forbids every request and any other script.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from emodistill.reporting.figure import Figure
from emodistill.reporting.pictures import data_uri
from emodistill.reporting.table import Column, Table

SCRIPTS = ("dom", "tables", "data", "charts", "transcript", "reader")
APART = ("costs", "training", "exclusions")  # tables with a section of their own
_FOLDER = files("emodistill") / "assets" / "report"


def page(
    title: str,
    verdicts: Sequence[str],
    rule: str | None,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    about: Mapping[str, Any],
    dialogues: Mapping[str, Any],
) -> str:
    """The whole page.

    Args:
        rule: how a verdict is reached, as it was fixed before the numbers.
        dialogues: see `transcripts`.
    """
    style, script = _asset("page.css"), _script()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["sort_value"] = sort_value
    return environment.from_string(_asset("page.html.jinja")).render(
        title=title,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        verdicts=verdicts,
        rule=rule,
        tables=[table for table in tables if table.name not in APART],
        apart={table.name: table for table in tables if table.name in APART},
        figures=[(figure, data_uri(figure)) for figure in figures],
        about=[(key.replace("_", " "), value) for key, value in about.items()],
        counts=_counts(dialogues),
        dialogues=htmlsafe_json_dumps(dialogues, separators=(",", ":")),
    )


def sort_value(column: Column, value: Any) -> str:
    """What a column is sorted by; empty for what is missing."""
    if column.kind == "interval":
        value = (value or (None,))[0]
    return "" if value is None or value != value else str(value)


def _counts(dialogues: Mapping[str, Any]) -> str:
    seeds = {(episode["s"], episode["seed"]) for episode in dialogues["episodes"]}
    return (
        f"{len(dialogues['episodes'])} episodes: {len(dialogues['players'])} arms on {len(dialogues['scenarios'])} "
        f"scenarios, {len(seeds)} pairs of scenario and seed"
    )


def _script() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _asset(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
