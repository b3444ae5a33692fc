"""The dataset card beside an imported CaSiNo corpus: what it is, whose it is, and how it was made."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emodistill.data.schema import Episode

_HEAD = """---
license: cc-by-4.0
language: en
tags: [negotiation, emotion, offline-rl, human]
---
# CaSiNo dialogues as negotiation episodes

Made by `emodistill` {version} from the campsite negotiations of CaSiNo by the recipe below. Both sides are **people**,
crowd workers who took part in a study. Each dialogue gives two episodes, one from each side. The emotion of a turn is
its emoticon; nobody drew it at random, so `emotion_prob` is empty and importance sampling is not available.

CaSiNo is by Kushal Chawla, Jaysa Ramirez, Rene Clever, Gale Lucas, Jonathan May and Jonathan Gratch, *CaSiNo: A Corpus
of Campsite Negotiation Dialogues for Automatic Negotiation Systems*, NAACL 2021,
https://aclanthology.org/2021.naacl-main.254, licence [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/),
https://github.com/kushalchawla/CaSiNo. This corpus is an adaptation of it: messages of one side in a row are joined,
clicks are put in words, and shares of packages in the points of one side.

"""


def write_card(path: Path, episodes: Sequence[Episode], recipe: dict[str, Any]) -> None:
    """Write the card."""
    from emodistill import __version__

    made = f"## Recipe\n\n```json\n{json.dumps(recipe, indent=2)}\n```\n"
    path.write_text(f"{_HEAD.format(version=__version__)}## Figures\n\n{_figures(episodes)}\n{made}", encoding="utf-8")


def _figures(episodes: Sequence[Episode]) -> str:
    lines = ["| split | dialogues | episodes | deals | utility | focal turns |", "|---|---|---|---|---|---|"]
    for split in sorted({episode.split for episode in episodes}):
        cell = [episode for episode in episodes if episode.split == split]
        deals = sum(episode.end == "deal" for episode in cell) / len(cell)
        utility = sum(episode.utility for episode in cell) / len(cell)
        turns = sum(len(episode.focal_turns) for episode in cell)
        lines.append(f"| {split} | {len(cell) // 2} | {len(cell)} | {deals:.3f} | {utility:.3f} | {turns} |")
    shown = Counter(turn.emotion or "none" for episode in episodes for turn in episode.focal_turns)
    emotions = ", ".join(f"{label} {count}" for label, count in shown.most_common())
    return "\n".join(lines) + f"\n\nFocal turns by emotion: {emotions}.\n"
