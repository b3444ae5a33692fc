"""CaSiNo as a corpus: the files you bring, as episodes in the package's cache.

The content of the files is part of the recipe. The corpus is made in seconds, so a build that was killed starts again.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emodistill.data.card import write_card
from emodistill.data.casino.episodes import EmotionLabels, episodes_of
from emodistill.data.casino.reading import Dialogue, read_content, read_dialogues
from emodistill.data.corpus import BuiltCorpus, CorpusFile
from emodistill.data.schema import SCHEMA_VERSION, write_episodes
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.splits import Manifest, content_of

IMPORTER = 1  # raise it when the same file would give other episodes
_VAL, _TEST = 0.1, 0.2  # shares of the dialogues


class CasinoCorpus(BuiltCorpus):
    """Two episodes a dialogue, one from each side.

    Args:
        path: `casino_train.json` or the same from a hub (.parquet, .jsonl), or a list of such files.
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
        super().__init__("casino", folder)
        self.paths = [Path(path)] if isinstance(path, str) else [Path(one) for one in path]
        self.vocabulary = load_vocabulary(vocabulary)
        self.labels = EmotionLabels.choose(self.vocabulary, unmarked)
        self.split_seed = split_seed

    def recipe(self) -> dict[str, Any]:
        return {
            "source": "casino",
            "importer": IMPORTER,
            "schema": SCHEMA_VERSION,
            "files": [hashlib.sha256(read_content(path, "data.corpus.path=")).hexdigest() for path in self.paths],
            "vocabulary": [self.vocabulary.name, self.vocabulary.fingerprint],
            "labels": {**self.labels.of, "unmarked": self.labels.unmarked},
            "split_seed": self.split_seed,
        }

    def build(self) -> Path:
        if not self.file.is_file():
            read_dialogues(self.paths)  # a damaged file is refused before a folder is made
        return super().build()

    def scenarios(self, split: str) -> list[Scenario]:
        """The scenarios of one split, each once, both sides of a dialogue after each other."""
        return CorpusFile(str(self.build())).scenarios(split)

    def make(self) -> None:
        dialogues = read_dialogues(self.paths)
        splits = split_by_pair(dialogues, self.split_seed)
        episodes = [e for dialogue in dialogues for e in episodes_of(dialogue, self.labels, splits[dialogue.id])]
        entries = {e.scenario.id: (e.split, content_of(e.scenario)) for e in episodes}
        self._write_recipe(Manifest(self.split_seed, entries))
        write_card(self.folder / "README.md", _CARD, episodes, self.recipe())
        write_episodes(episodes, self.file)


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


_CARD = """---
license: cc-by-4.0
language: en
tags: [negotiation, emotion, offline-rl, human]
---
# CaSiNo dialogues as negotiation episodes

Made by `emodistill` from the campsite negotiations of CaSiNo by the recipe below. Both sides are **people**, crowd
workers who took part in a study. Each dialogue gives two episodes, one from each side. The emotion of a turn is its
emoticon; nobody drew it at random, so `emotion_prob` is empty and importance sampling is not available.

CaSiNo is by Kushal Chawla, Jaysa Ramirez, Rene Clever, Gale Lucas, Jonathan May and Jonathan Gratch, *CaSiNo: A Corpus
of Campsite Negotiation Dialogues for Automatic Negotiation Systems*, NAACL 2021,
https://aclanthology.org/2021.naacl-main.254, licence [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/),
https://github.com/kushalchawla/CaSiNo. This corpus is an adaptation of it: messages of one side in a row are joined,
clicks are put in words, and shares of packages in the points of one side.
"""
