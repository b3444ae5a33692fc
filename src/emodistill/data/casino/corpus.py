"""CaSiNo as a corpus: the file you bring, as episodes in the package's cache.

Like the bundled corpus it lives in a folder named by a hash of its recipe, of which the content of your files is a
part. It is written whole or not at all, in seconds, so a build that was killed is simply done again.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emodistill.data.casino.card import write_card
from emodistill.data.casino.dialogues import Dialogue
from emodistill.data.casino.episodes import EmotionLabels, episodes_of
from emodistill.data.casino.reading import read_dialogues
from emodistill.data.corpus_file import CorpusFile
from emodistill.data.schema import SCHEMA_VERSION, Episode, write_episodes
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.language_models.embedded import cache_dir
from emodistill.locks import exclusive
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.splits import Manifest, content_of

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
