"""CaSiNo as a corpus: the file you bring, as episodes in the package's cache.

Like the bundled corpus it lives in a folder named by a hash of its recipe, of which the content of your files is a
part. It is written whole or not at all, in seconds, so a build that was killed is simply done again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emodistill.data.casino.episodes import EmotionLabels, episodes_of
from emodistill.data.casino.reading import Dialogue, read_dialogues
from emodistill.data.corpus import CorpusFile
from emodistill.data.schema import SCHEMA_VERSION, Episode, write_episodes
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.files import exclusive
from emodistill.language_models.embedded import cache_dir
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.splits import Manifest, content_of

# ---- card ----
# The dataset card beside an imported CaSiNo corpus: what it is, whose it is, and how it was made.

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


EPISODES = "episodes.parquet"
IMPORTER = 1  # raise it when the same file would give other episodes
_VAL, _TEST = 0.1, 0.2


class CasinoCorpus:
    """Two episodes a dialogue, one from each side.

    Args:
        path: `casino_train.json`, or a list of CaSiNo's files.
        vocabulary: name of the emotion vocabulary; its labels stand for the emoticons.
        unmarked: what a turn with words but without emoticon shows: `neutral`, or `none`, which makes it no transition.
        split_seed: fixes which dialogues are train, val and test; those of one pair of people stay together.
        folder: where corpora lie; the package's cache by default.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        vocabulary: str,
        unmarked: Literal["neutral", "none"] = "neutral",
        split_seed: int = 0,
        folder: str | None = None,
    ) -> None:
        self.paths = [Path(path)] if isinstance(path, str) else [Path(one) for one in path]
        self.vocabulary = load_vocabulary(vocabulary)
        self.labels = EmotionLabels.choose(self.vocabulary, unmarked)
        self.split_seed = split_seed
        self.root = Path(folder) if folder else cache_dir() / "corpora"

    def recipe(self) -> dict[str, Any]:
        """Everything that fixes the corpus, in plain values."""
        return {
            "source": "casino",
            "importer": IMPORTER,
            "schema": SCHEMA_VERSION,
            "files": [hashlib.sha256(_content(path)).hexdigest() for path in self.paths],
            "vocabulary": [self.vocabulary.name, self.vocabulary.fingerprint],
            "labels": {**self.labels.of, "unmarked": self.labels.unmarked},
            "split_seed": self.split_seed,
        }

    @cached_property
    def folder(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.recipe(), sort_keys=True).encode()).hexdigest()[:12]
        return self.root / f"casino-{digest}"

    def build(self) -> Path:
        target = self.folder / EPISODES
        if target.is_file():
            return target
        dialogues = read_dialogues(self.paths)
        with exclusive(self.folder, wait=True):
            if not target.is_file():
                self._build(dialogues, target)
        return target

    def episodes(self) -> list[Episode]:
        return CorpusFile(str(self.folder / EPISODES)).episodes()

    def scenarios(self, split: str) -> list[Scenario]:
        """The situations of one split, each once, both sides of a dialogue after each other."""
        return CorpusFile(str(self.build())).scenarios(split)

    def _build(self, dialogues: Sequence[Dialogue], target: Path) -> None:
        splits = split_by_pair(dialogues, self.split_seed)
        episodes = [e for dialogue in dialogues for e in episodes_of(dialogue, self.labels, splits[dialogue.id])]
        entries = {e.scenario.id: (e.split, content_of(e.scenario)) for e in episodes}
        Manifest(self.split_seed, entries).write(self.folder / "manifest.json")
        (self.folder / "recipe.json").write_text(json.dumps(self.recipe(), indent=2), encoding="utf-8")
        write_card(self.folder / "README.md", episodes, self.recipe())
        write_episodes(episodes, target)


def split_by_pair(dialogues: Sequence[Dialogue], seed: int) -> dict[int, str]:
    """The split of each dialogue, about 70/10/20; dialogues of the same two people are in the same one.

    One person's dialogues with different partners may be in different splits: through shared partners nearly all
    people hang together, so that no split could keep every person to one side.
    """
    pairs: dict[tuple[str, ...], list[int]] = {}
    for dialogue in sorted(dialogues, key=lambda dialogue: dialogue.id):
        pairs.setdefault(dialogue.pair, []).append(dialogue.id)
    groups, splits = list(pairs.values()), dict[int, str]()
    for place in np.random.default_rng(seed).permutation(len(groups)).tolist():
        before = len(splits) / len(dialogues)
        split = "val" if before < _VAL else "test" if before < _VAL + _TEST else "train"
        splits.update(dict.fromkeys(groups[place], split))
    return splits


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"data.corpus.path={path} cannot be read ({error.strerror}); get casino_train.json from "
            "https://github.com/kushalchawla/CaSiNo (docs/casino.md)"
        ) from error
