"""The dataset card that lies beside a corpus that was built here."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import emodistill
from emodistill.data.schema import Episode
from emodistill.files import atomic_write
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL


def write_card(path: Path, head: str, episodes: Sequence[Episode], recipe: dict[str, Any]) -> None:
    """Write the card of a corpus as Markdown.

    Args:
        head: its front matter, title and description; what the episodes hold, their columns and the recipe follow.
    """
    from emodistill.data.arrow_schema import SCHEMA

    columns = "\n".join(f"| `{field.name}` | `{field.type}` |" for field in SCHEMA)
    sections = [
        head,
        f"## Episodes\n\n{_by_domain(episodes)}\n\n{_emotions(episodes)}\n",
        f"## Faults\n\n{_faults(episodes)}\n",
        f"## Columns\n\n| column | type |\n|---|---|\n{columns}\n",
        f"## Recipe\n\nMade with version {emodistill.__version__} of the code.\n",
        f"```json\n{json.dumps(recipe, indent=2)}\n```\n",
    ]
    atomic_write(path, "\n".join(sections))


def _by_domain(episodes: Sequence[Episode]) -> str:
    lines = [
        "| domain | split | scenarios | episodes | invalid | success | utility | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for domain, split in sorted({(episode.scenario.domain, episode.split) for episode in episodes}):
        cell = [e for e in episodes if (e.scenario.domain, e.split) == (domain, split)]
        valid = [episode for episode in cell if episode.end != "invalid"]
        count = max(len(valid), 1)
        rounds = sum(episode.turns[-1].round for episode in valid) / count
        success = sum(episode.end == "deal" for episode in valid) / count
        utility = sum(episode.utility for episode in valid) / count
        scenarios = len({episode.scenario.id for episode in cell})
        row = f"{success:.3f} | {utility:.3f} | {rounds:.1f}"
        lines.append(f"| {domain} | {split} | {scenarios} | {len(cell)} | {len(cell) - len(valid)} | {row} |")
    return "\n".join(lines)


def _emotions(episodes: Sequence[Episode]) -> str:
    counts = Counter(turn.emotion or "none" for episode in episodes for turn in episode.focal_turns)
    return f"Focal turns by emotion: {', '.join(f'{label} {count}' for label, count in counts.most_common())}."


def _faults(episodes: Sequence[Episode]) -> str:
    """Attempts at a turn that fell out of role, offers that had to be added, and why episodes are invalid."""
    lines = [
        "| side | turns | turns with a role violation | role violations | offers appended |",
        "|---|---|---|---|---|",
    ]
    for side in (FOCAL, COUNTERPARTY):
        turns = [turn for episode in episodes for turn in episode.turns if turn.speaker == side]
        kinds = Counter(kind for turn in turns for kind in turn.role_violations)
        by_kind = "".join(f", {count} {kind}" for kind, count in kinds.most_common())
        violated, appended = (
            sum(bool(turn.role_violations) for turn in turns),
            sum(turn.offer_appended for turn in turns),
        )
        lines.append(f"| {side} | {len(turns)} | {violated} | {kinds.total()}{by_kind} | {appended} |")
    faults = Counter(episode.fault for episode in episodes if episode.end == "invalid")
    invalid = "".join(f"\n- {count} x {reason}" for reason, count in faults.most_common(10))
    return "\n".join(lines) + (f"\n\nInvalid episodes:\n{invalid}" if invalid else "")
