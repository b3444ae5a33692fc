"""A corpus that is played here: a focal seat against a counterparty over scenarios x seeds, built once from a recipe.

It lives in a folder named by a hash of its recipe: change the recipe and another folder is built, and nothing already
made is touched. It is played part by part, some episodes in lockstep; a part on disk is not played again, and no part
depends on another, so a build that was killed goes on and ends as if nothing had happened. Several machines share the
work as shards (`shards`). Episodes of test scenarios are never in it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from emodistill.data.asset_fingerprints import assets_fingerprint, domains_fingerprint
from emodistill.data.card import write_card
from emodistill.data.corpus_file import check_splits
from emodistill.data.scenario_sources import ScenarioSource
from emodistill.data.schema import SCHEMA_VERSION, Episode, read_episodes, write_episodes
from emodistill.data.seats import FocalSeat, Seat
from emodistill.data.shards import Game, Shard, merged
from emodistill.errors import UserError
from emodistill.language_models.embedded import cache_dir
from emodistill.locks import exclusive
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.engine import play
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.splits import Manifest, split_of
from emodistill.progress import progress
from emodistill.runs import write_whole

EPISODES = "episodes.parquet"
ENOUGH_TO_TELL = 4  # episodes that all fail in the same call are an outage, not bad luck


class PlayedCorpus:
    """Plays what its recipe says, once.

    Args:
        domains: which domains to build and read.
        scenarios: where the scenarios come from.
        episodes_per_scenario: one a seed; seeds cycle through the counterparty's personas.
        focal, counterparty: who plays.
        split_seed: fixes which scenarios are train, val and test.
        folder: where corpora lie; the package's cache by default.
        batch: episodes played in lockstep, and stored together; all of a domain and a seed by default.
        shard: `i/n` plays only the i-th of n shares; see `shards`.
    """

    kind = "played"

    def __init__(
        self,
        domains: Sequence[str],
        scenarios: ScenarioSource,
        episodes_per_scenario: int,
        focal: FocalSeat,
        counterparty: Seat,
        split_seed: int,
        folder: str | None = None,
        batch: int | None = None,
        shard: str | None = None,
    ) -> None:
        for domain in domains:
            load_domain(domain)
        if batch is not None and batch < 1:
            raise UserError(f"data.corpus.batch={batch}: at least one episode at a time")
        self.domains, self.scenario_source = list(domains), scenarios
        self.episodes_per_scenario, self.split_seed, self.batch = episodes_per_scenario, split_seed, batch
        self.focal, self.counterparty = focal, counterparty
        self.root = Path(folder) if folder else cache_dir() / "corpora"
        self.shard = Shard.parse(shard) if shard else None

    def recipe(self) -> dict[str, Any]:
        """Everything that fixes the corpus, in plain values."""
        of_assets = self.focal.of_assets or self.counterparty.of_assets
        return {
            "schema": SCHEMA_VERSION,
            "domains": self.domains,
            "scenarios": self.scenario_source.recipe(),
            "split_seed": self.split_seed,
            "episodes_per_scenario": self.episodes_per_scenario,
            "batch": self.batch,
            "focal": self.focal.recipe(),
            "counterparty": self.counterparty.recipe(),
            "assets": assets_fingerprint() if of_assets else domains_fingerprint(),
        }

    @cached_property
    def folder(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.recipe(), sort_keys=True).encode()).hexdigest()[:12]
        return self.root / f"{self.kind}-{digest}"

    @cached_property
    def all_scenarios(self) -> list[Scenario]:
        return [scenario for domain in self.domains for scenario in self.scenario_source.load(domain)]

    @cached_property
    def manifest(self) -> Manifest:
        """Which scenario is in which split."""
        return split_of(self.all_scenarios, self.split_seed)

    def scenarios(self, split: str) -> list[Scenario]:
        """The scenarios of one split, in order of domain and id."""
        return [scenario for scenario in self.all_scenarios if self.manifest.split(scenario) == split]

    def build(self) -> Path:
        """Play what is missing; with `shard`, only its share, which is no corpus yet. Returns the Parquet file."""
        target = self.folder / EPISODES
        if target.is_file():
            return target
        if self.shard:
            return self._build_shard(self.shard)
        with exclusive(self.folder, wait=True):
            if not target.is_file():
                self._build(target)
        return target

    def episodes(self) -> list[Episode]:
        if self.shard and not (self.folder / EPISODES).is_file():
            raise UserError(f"shard {self.shard} of a corpus is not the corpus; play all shards, then leave out shard=")
        episodes = read_episodes(self.folder / EPISODES)
        check_splits(episodes, self.folder / EPISODES)
        return episodes

    def parts(self) -> list[tuple[Game, ...]]:
        """All games, in the parts in which they are played."""
        found: list[tuple[Game, ...]] = []
        for domain in self.domains:
            seen = [s for s in self.all_scenarios if s.domain == domain and self.manifest.split(s) != "test"]
            games = [(scenario, seed) for seed in range(self.episodes_per_scenario) for scenario in seen]
            size = self.batch or max(len(seen), 1)
            found += [tuple(games[i : i + size]) for i in range(0, len(games), size)]
        return found

    def _build(self, target: Path) -> None:
        self._describe(self.folder)
        parts = self.parts()
        episodes = merged(self.folder, self.recipe(), [game for part in parts for game in part])
        if episodes is None:
            episodes = list(self._played(self.folder / "parts", list(enumerate(parts))))
        about = f"the focal side is {self.focal.describe()}; the counterparty is {self.counterparty.describe()}"
        write_card(self.folder / "README.md", episodes, self.recipe(), about)
        write_episodes(episodes, target)
        _remove(self.folder / "parts")

    def _build_shard(self, shard: Shard) -> Path:
        folder = shard.folder(self.folder)
        target, parts = folder / EPISODES, list(enumerate(self.parts()))
        if shard.count > len(parts):
            raise UserError(f"data.corpus.shard={shard}: there are {len(parts)} batches to share; use fewer shards")
        with exclusive(folder, wait=True):
            if not shard.done(self.folder):
                self._describe(self.folder)
                own = [(i, games) for i, games in parts if shard.has(i)]
                write_episodes(list(self._played(folder / "parts", own)), target)
                shard.finish(self.folder, self.recipe())
                _remove(folder / "parts")
        return target

    def _describe(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "recipe.json", json.dumps(self.recipe(), indent=2))
        self.manifest.write(folder / "manifest.json")

    def _played(self, folder: Path, parts: Sequence[tuple[int, Sequence[Game]]]) -> Iterator[Episode]:
        """The episodes of these parts; whatever is not on disk yet is played first."""
        files = [folder / f"{index:05}.parquet" for index, _ in parts]
        missing = [(games, file) for (_, games), file in zip(parts, files, strict=True) if not file.is_file()]
        with progress("building the corpus", sum(len(games) for games, _ in missing)) as advance:
            seats = (self.focal.open(), self.counterparty.open()) if missing else ()
            for games, file in missing:
                write_episodes(self._play(games, *seats), file)
                advance(len(games))
        yield from (episode for file in files for episode in read_episodes(file))

    def _play(self, games: Sequence[Game], focal: Any, counterparty: Any) -> list[Episode]:
        played = play([Negotiation(scenario, seed) for scenario, seed in games], focal, counterparty)
        _check_outage(played)
        return [Episode.of(n, self.manifest.split(n.scenario), focal.selector.name, focal.name) for n in played]


def _check_outage(played: Sequence[Negotiation]) -> None:
    """Raises UserError where all failed in the same call: to keep that would fill a corpus with nothing."""
    ends = {(negotiation.end, len(negotiation.turns)) for negotiation in played}
    if len(played) >= ENOUGH_TO_TELL and len(ends) == 1 and played[0].end == "invalid":
        why = f"none of {len(played)} episodes could be played ({played[0].fault}), and they are not kept"
        raise UserError(f"{why}; mend it and run the same command again")


def _remove(folder: Path) -> None:
    """Remove a folder of parts that are in the whole now."""
    for part in folder.glob("*.parquet"):
        part.unlink()
    if folder.is_dir():
        folder.rmdir()
