"""The dataset card that is written next to a corpus."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emodistill.data.schema import SCHEMA, Episode
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL

_HEAD = """---
license: apache-2.0
language: en
tags: [negotiation, emotion, offline-rl, simulated]
---
# Negotiation episodes with emotion-labelled turns

Made by `emodistill` {version} from the recipe below. Both sides are **simulated**: {about}. The probability with which
an emotion was drawn is stored as `emotion_prob`. No person took part, and no claim about people follows from it.
What it is not for stands in `docs/ethics.md` of the code.
The splits are by scenario, and no test scenario has an episode here.
"""


def write_card(path: Path, episodes: Sequence[Episode], recipe: dict[str, Any], about: str) -> None:
    """Write the card: what the corpus is, its figures by domain, its columns and its recipe.

    Args:
        about: who the two sides are, as a clause.
    """
    from emodistill import __version__

    columns = "\n".join(f"| `{field.name}` | `{field.type}` |" for field in SCHEMA)
    sections = [
        _HEAD.format(version=__version__, about=about),
        "## Figures\n\n" + _figures(episodes) + _mishaps(episodes),
        f"## Columns\n\n| column | type |\n|---|---|\n{columns}\n",
        f"## Recipe\n\n```json\n{json.dumps(recipe, indent=2)}\n```\n",
    ]
    path.write_text("\n".join(sections), encoding="utf-8")


def _figures(episodes: Sequence[Episode]) -> str:
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
    emotions = Counter(turn.emotion for episode in episodes for turn in episode.turns if turn.emotion)
    shown = ", ".join(f"{label} {count}" for label, count in emotions.most_common())
    return "\n".join(lines) + f"\n\nFocal turns by emotion: {shown}.\n"


def _mishaps(episodes: Sequence[Episode]) -> str:
    """What went wrong: attempts at a turn that slipped out of role, offers that had to be added, invalid episodes."""
    lines = []
    for side in (FOCAL, COUNTERPARTY):
        turns = [turn for episode in episodes for turn in episode.turns if turn.speaker == side]
        kinds = Counter(slip for turn in turns for slip in turn.slips)
        slips = "".join(f", {count} {kind}" for kind, count in kinds.most_common())
        slipped, appended = sum(bool(turn.slips) for turn in turns), sum(turn.offer_appended for turn in turns)
        lines.append(f"| {side} | {len(turns)} | {slipped} | {kinds.total()}{slips} | {appended} |")
    faults = Counter(episode.fault for episode in episodes if episode.end == "invalid")
    invalid = "".join(f"- {count} x {reason}\n" for reason, count in faults.most_common(10))
    head = "| side | turns | turns with a slip | attempts that slipped | offers appended |\n|---|---|---|---|---|\n"
    return f"\n{head}" + "\n".join(lines) + "\n" + (f"\nInvalid episodes:\n\n{invalid}" if invalid else "")
