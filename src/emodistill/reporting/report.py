"""A report on disk: the page, its tables and figures as files, and every number as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emodistill.files import atomic_write
from emodistill.reporting.formats import escape_markdown, latex, markdown, parquet, png, to_tensorboard
from emodistill.reporting.page import Detect, page, transcripts
from emodistill.reporting.results import StudyResult, plain
from emodistill.reporting.tables import Figure, Table


def write_report(folder: Path, study: StudyResult, detect: Detect | None = None) -> dict[str, Any]:
    """Write `report.{html,md,json}`, `tables/`, `figures/` and `tensorboard/` into `folder`.

    Each file is written whole or not at all, and tables and figures of an earlier report go.

    Args:
        detect: finds what is flagged in words.

    Returns:
        the content of `report.json`.
    """
    tables, figures, about, statements = study.tables, study.figures, study.about, study.statements
    folder.mkdir(parents=True, exist_ok=True)
    rows = {table.name: [dict(row) for row in table.rows] for table in tables}
    report: dict[str, Any] = plain({**study.values, "tables": rows, "verdicts": statements, "about": dict(about)})
    atomic_write(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    atomic_write(folder / "report.md", _markdown(statements, tables, figures, about))
    _fill(folder / "tables", _table_files(tables))
    _fill(folder / "figures", {f"{figure.name}.png": png(figure) for figure in figures})
    to_tensorboard(figures, folder / "tensorboard")
    dialogues = transcripts(study.arms, study.perceiver, study.vocabulary, study.selector_checkpoint, detect)
    title = f"EmoDistill: {about.get('study', 'evaluation')} of run {about.get('run', folder.parent.name)}"
    atomic_write(folder / "report.html", page(title, study.verdicts, study.rule, tables, figures, about, dialogues))
    return report


def _table_files(tables: Sequence[Table]) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    for table in tables:
        found |= {f"{table.name}.md": markdown(table), f"{table.name}.tex": latex(table)}
        found[f"{table.name}.parquet"] = parquet(table)
    return found


def _fill(folder: Path, content: Mapping[str, str | bytes]) -> None:
    """Make a folder hold these files and no others."""
    folder.mkdir(exist_ok=True)
    for name, data in content.items():
        atomic_write(folder / name, data)
    for path in folder.iterdir():
        if path.is_file() and path.name not in content:
            path.unlink()


def _markdown(
    verdicts: Sequence[str], tables: Sequence[Table], figures: Sequence[Figure], about: Mapping[str, Any]
) -> str:
    known = "\n".join(f"- {key.replace('_', ' ')}: {escape_markdown(str(value))}" for key, value in about.items())
    said = "\n".join(f"- {escape_markdown(line)}" for line in verdicts)
    seen = [f"![{escape_markdown(f.alternative)}](figures/{f.name}.png)\n" for f in figures]
    parts = ["# Report", f"## Verdicts\n\n{said or 'None.'}", f"## What was played\n\n{known}"]
    parts += ["## Tables", *map(markdown, tables)] if tables else []
    return "\n\n".join([*parts, *(["## Figures", *seen] if seen else [])]) + "\n"
