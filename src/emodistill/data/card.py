"""The dataset card that is written next to a corpus."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emodistill.data.schema import SCHEMA, Episode

_HEAD = """---
license: apache-2.0
language: en
tags: [negotiation, emotion, offline-rl, simulated]
---
# Negotiation episodes with emotion-labelled turns

Made by `emodistill` {version} from the recipe below. Both sides are **simulated**: the focal side speaks from a
phrasebook with an emotion drawn uniformly at random each turn (its probability is stored as `emotion_prob`), the
counterparty is a documented behavioural simulation. No person took part, and no claim about people follows from it.
Scenarios are invented; the splits are by scenario, and no test scenario has an episode here.
"""


def write_card(path: Path, episodes: Sequence[Episode], recipe: dict[str, Any]) -> None:
    """Write the card: what the corpus is, its figures by domain, its columns and its recipe."""
    from emodistill import __version__

    columns = "\n".join(f"| `{field.name}` | `{field.type}` |" for field in SCHEMA)
    sections = [
        _HEAD.format(version=__version__),
        "## Figures\n\n" + _figures(episodes),
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
