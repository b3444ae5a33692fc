"""A report on disk: the page, its tables and figures as files, and every number as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emodistill.files import atomic_write
from emodistill.reporting.formats import Picture, escape_markdown, latex, markdown, parquet, picture, to_tensorboard
from emodistill.reporting.page import Detect, page
from emodistill.reporting.results import StudyResult, plain


def write_report(folder: Path, study: StudyResult, detect: Detect | None = None) -> dict[str, Any]:
    """Write `report.{html,md,json}`, `tables/`, `figures/` and `tensorboard/` into `folder`.

    Each file is written whole or not at all, and tables and figures of an earlier report go. A figure that cannot be
    drawn is named where it would stand; everything else is written all the same.

    Args:
        detect: finds what is flagged in the words of the transcripts.

    Returns:
        the content of `report.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = {table.name: [dict(row) for row in table.rows] for table in study.tables}
    about = {"tables": rows, "verdicts": study.statements, "about": dict(study.about), "answer": study.answer}
    report: dict[str, Any] = plain({**study.values, **about})
    atomic_write(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    tables: dict[str, str | bytes] = {}
    for table in study.tables:
        tables[f"{table.name}.md"] = markdown(table)
        tables[f"{table.name}.tex"] = latex(table)
        tables[f"{table.name}.parquet"] = parquet(table)
    _fill(folder / "tables", tables)
    pictures = [picture(figure) for figure in study.figures]
    _fill(folder / "figures", {f"{one.figure.name}.png": one.png for one in pictures if one.png is not None})
    atomic_write(folder / "report.md", _markdown(study, pictures))
    atomic_write(folder / "report.html", page(study, detect, pictures))
    to_tensorboard(pictures, folder / "tensorboard")
    return report


def _markdown(study: StudyResult, pictures: Sequence[Picture]) -> str:
    """The report without transcripts, in the order of the page."""
    verdicts = "\n".join(f"- {escape_markdown(line)}" for line in study.statements)
    about = [f"- {key.replace('_', ' ')}: {escape_markdown(str(value))}" for key, value in study.about.items()]
    parts = [f"# {escape_markdown(study.title)}", escape_markdown(study.answer), "## Verdicts", verdicts or "None."]
    if pictures:
        parts += ["## Figures", *map(_picture, pictures)]
    if study.tables:
        parts += ["## Tables", *(markdown(table).rstrip() for table in study.tables)]
    parts += ["## What was played", "\n".join(about)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _picture(one: Picture) -> str:
    figure, note = one.figure, escape_markdown(one.note)
    image = f"![{escape_markdown(figure.alternative)}](figures/{figure.name}.png)"
    if one.png is None:
        image = f"**{escape_markdown(figure.title)}**\n\n{escape_markdown(figure.alternative)}"
    return f"{image}\n\n{note}" if note else image


def _fill(folder: Path, content: Mapping[str, str | bytes]) -> None:
    """Make a folder hold these files and no others."""
    folder.mkdir(exist_ok=True)
    for name, data in content.items():
        atomic_write(folder / name, data)
    for path in folder.iterdir():
        if path.is_file() and path.name not in content:
            path.unlink()
