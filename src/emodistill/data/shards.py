"""A corpus in shards: shard i/n plays every n-th part in a folder of its own, and who builds the whole merges them.

    <corpus>/shard-1-of-4/episodes.parquet   what this shard played
                          shard.json         written last: its recipe, and the hash of the episodes

Shards may be played on different machines, one after the other or at once; put their folders side by side in the folder
of the corpus. What is merged is checked: one recipe, all shards there and finished, every game once.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.data.schema import Episode, read_episodes
from emodistill.errors import UserError
from emodistill.negotiation.scenarios import Scenario
from emodistill.runs import write_whole

Game = tuple[Scenario, int]  # a scenario and a seed
_NAME = re.compile(r"shard-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` shares, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `i/n`.

        Raises:
            UserError: if it is not that, with 1 <= i <= n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"data.corpus.shard={text}: write i/n, from 1/n to n/n, for example 1/4")
        return cls(int(match[1]), int(match[2]))

    def has(self, part: int) -> bool:
        return part % self.count == self.number - 1

    def folder(self, corpus: Path) -> Path:
        return corpus / f"shard-{self.number}-of-{self.count}"

    def done(self, corpus: Path) -> bool:
        return (self.folder(corpus) / "shard.json").is_file()

    def finish(self, corpus: Path, recipe: dict[str, Any]) -> None:
        """Record that this shard is whole."""
        content = {"shard": str(self), "sha256": _hash(self.folder(corpus)), "recipe": recipe}
        write_whole(self.folder(corpus) / "shard.json", json.dumps(content, indent=2) + "\n")

    def read(self, corpus: Path, recipe: dict[str, Any]) -> list[Episode]:
        """The episodes of this shard.

        Raises:
            UserError: if it was played by another recipe, or is not what was written.
        """
        folder = self.folder(corpus)
        try:
            content = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
            written, its_recipe = content["sha256"], content["recipe"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / 'shard.json'} is damaged; delete {folder} and play this shard again") from error
        if its_recipe != json.loads(json.dumps(recipe)):
            keys = [key for key in recipe if its_recipe.get(key) != json.loads(json.dumps(recipe[key]))]
            raise UserError(f"{folder} was played by another recipe ({', '.join(keys)} differ); play this shard again")
        if written != _hash(folder):
            raise UserError(f"{folder / 'episodes.parquet'} is not as it was written; copy or play this shard again")
        return read_episodes(folder / "episodes.parquet")


def merged(corpus: Path, recipe: dict[str, Any], games: Sequence[Game]) -> list[Episode] | None:
    """The episodes of all shards in the order of the games, or None where there are no shards.

    Raises:
        UserError: if shards are missing, unfinished or of different recipes, or a game is played twice or not at all.
    """
    shards = [Shard(int(m[1]), int(m[2])) for path in sorted(corpus.iterdir()) if (m := _NAME.fullmatch(path.name))]
    if not shards:
        return None
    count = shards[0].count
    if any(shard.count != count for shard in shards):
        raise UserError(f"{corpus} has shards of different counts; keep those of one and delete the others")
    missing = [shard for i in range(count) if not (shard := Shard(i + 1, count)).done(corpus)]
    if missing:
        raise UserError(
            f"{corpus} lacks the finished shards {', '.join(map(str, missing))}; play them with data.corpus.shard=..., "
            f"copy them there, or delete its shard folders to play all of it here"
        )
    return _each_once([episode for shard in shards for episode in shard.read(corpus, recipe)], games, corpus)


def _each_once(episodes: Sequence[Episode], games: Sequence[Game], corpus: Path) -> list[Episode]:
    found: dict[tuple[str, str, int], Episode] = {}
    for episode in episodes:
        key = (episode.scenario.domain, episode.scenario.id, episode.seed)
        if key in found:
            raise UserError(f"{corpus}: scenario {key[1]} with seed {key[2]} is in two shards; play the shards again")
        found[key] = episode
    wanted = [(scenario.domain, scenario.id, seed) for scenario, seed in games]
    if gaps := [key for key in wanted if key not in found]:
        raise UserError(f"{corpus}: scenario {gaps[0][1]} with seed {gaps[0][2]} is in no shard; play the shards again")
    if extra := found.keys() - set(wanted):
        raise UserError(f"{corpus}: scenario {min(extra)[1]} does not belong to this corpus; play the shards again")
    return [found[key] for key in wanted]


def _hash(folder: Path) -> str:
    return hashlib.sha256((folder / "episodes.parquet").read_bytes()).hexdigest()
