"""A report on disk: the page, its tables and figures as files, and every number as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emodistill.emotions.perceiver import Perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.files import atomic_write
from emodistill.reporting.formats import escape_markdown, latex, markdown, parquet, png, to_tensorboard
from emodistill.reporting.page import Detect, page, transcripts
from emodistill.reporting.tables import RULE, AnalysisResult, Figure, Table, distinct

if TYPE_CHECKING:
    from emodistill.evaluation.results import ArmResult


def write_report(
    folder: Path,
    findings: "AnalysisResult",
    played: "Sequence[ArmResult]",
    about: Mapping[str, Any],
    raw: Mapping[str, Any],
    *,
    perceiver: Perceiver,
    vocabulary: Vocabulary,
    selector_checkpoint: Path | None = None,
    detect: Detect | None = None,
) -> dict[str, Any]:
    """Write `report.{html,md,json}`, `tables/`, `figures/` and `tensorboard/` into `folder`.

    Each file is written whole or not at all, and tables and figures of an earlier report go.

    Args:
        about: how the numbers came about, e.g. `command`, `date`, `machine`.
        raw: what `report.json` holds besides tables, verdicts and `about`.
        perceiver: whose reading of each turn the transcripts show.
        selector_checkpoint: see `transcripts`.
        detect: finds what is flagged in words.

    Returns:
        the content of `report.json`.
    """
    tables, figures = distinct(findings.tables), distinct(findings.figures)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {table.name: [dict(row) for row in table.rows] for table in tables}
    report: dict[str, Any] = _plain({**raw, "tables": rows, "verdicts": list(findings.verdicts), "about": dict(about)})
    atomic_write(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    atomic_write(folder / "report.md", _markdown(findings.verdicts, tables, figures, about))
    _fill(folder / "tables", _table_files(tables))
    _fill(folder / "figures", {f"{figure.name}.png": png(figure) for figure in figures})
    to_tensorboard(figures, folder / "tensorboard")
    dialogues = transcripts(played, perceiver, vocabulary, selector_checkpoint, detect)
    title = f"EmoDistill: {about.get('study', 'evaluation')} of run {about.get('run', folder.parent.name)}"
    rule, said = _rule(findings.verdicts)
    atomic_write(folder / "report.html", page(title, said, rule, tables, figures, about, dialogues))
    return report


def _rule(verdicts: Sequence[str]) -> tuple[str | None, list[str]]:
    """The rule of the verdicts, where one of their lines states it, and the other lines."""
    rules = [line.removeprefix(RULE).strip() for line in verdicts if line.startswith(RULE)]
    return " ".join(rules) or None, [line for line in verdicts if not line.startswith(RULE)]


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


def _plain(value: Any) -> Any:
    """JSON values only: nan and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
