"""Corpora of episodes: a Parquet file that you bring, or one that is played here once and kept.

    <cache>/corpora/<name>-<hash of the recipe>/
        recipe.json         everything that fixes the corpus
        manifest.json       which scenario is in which split
        README.md           the dataset card
        episodes.parquet    written last, whole or not at all
        parts/              episodes played so far; gone when the corpus is whole
        shard-1-of-4/       what one of several machines played, see `Shard`

Another recipe is another folder, so nothing that was made before is touched. A corpus is played in parts that do not
depend on each other. A part on disk is not played again, so a build that was killed continues, and ends with the same
bytes. Test scenarios are never played.
"""

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from emodistill.data.card import write_card
from emodistill.data.schema import SCHEMA_VERSION, Episode, read_episodes, write_episodes
from emodistill.errors import UserError
from emodistill.files import atomic_write, cache_dir, exclusive
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario, load_csv
from emodistill.negotiation.splits import Manifest, check_no_leak, split_of
from emodistill.progress import progress

if TYPE_CHECKING:  # imports torch, which nobody needs who reads a corpus
    from emodistill.data.agent_specs import AgentSpec, FocalAgentSpec

EPISODES = "episodes.parquet"
Game = tuple[Scenario, int]  # a scenario and a seed


class Corpus(Protocol):
    def build(self) -> Path:
        """Make what is missing, resumably; returns the Parquet file."""

    def episodes(self) -> list[Episode]: ...

    def scenarios(self, split: str) -> list[Scenario]:
        """The scenarios of one split, each once."""


class CorpusFile:
    """A corpus that you bring: a Parquet file of the schema in `schema.py`.

    Args:
        path: the file.
        domains: read only these; None reads all.
    """

    def __init__(self, path: str, domains: Sequence[str] | None = None) -> None:
        self.path, self.domains = Path(os.path.expanduser(path)), domains

    def build(self) -> Path:
        if not self.path.is_file():
            raise UserError(f"data.corpus.path={self.path} does not exist; point it at an episodes.parquet")
        return self.path

    def episodes(self) -> list[Episode]:
        episodes = read_episodes(self.path)
        found = [episode for episode in episodes if self.domains is None or episode.scenario.domain in self.domains]
        if not found:
            there = sorted({episode.scenario.domain for episode in episodes})
            raise UserError(f"{self.path} has no episode of {list(self.domains or [])}; it has the domains {there}")
        check_splits(found, self.path)
        return found

    def scenarios(self, split: str) -> list[Scenario]:
        """The scenarios that have episodes in a split, each once, in the order of the file."""
        found = {(e.scenario.domain, e.scenario.id): e.scenario for e in self.episodes() if e.split == split}
        if not found:
            raise UserError(
                f"{self.path} has no episode in the split '{split}'; give data=bundled, or a corpus with some"
            )
        return list(found.values())


def check_splits(episodes: Sequence[Episode], path: Path) -> None:
    """A scenario, or one and the same context, in two splits is a UserError that names file and scenario."""
    splits: dict[str, dict[str, Scenario]] = {}
    for episode in episodes:
        splits.setdefault(episode.split, {})[episode.scenario.id] = episode.scenario
    try:
        check_no_leak({split: scenarios.values() for split, scenarios in splits.items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


class BuiltCorpus(ABC):
    """A corpus that is made once from a recipe, in a folder of its own.

    Args:
        name: first word of the folder's name.
        folder: where corpora lie; the package's cache by default.
    """

    def __init__(self, name: str, folder: str | None) -> None:
        self.name, self.root = name, Path(os.path.expanduser(folder)) if folder else cache_dir() / "corpora"

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Everything that fixes the corpus, in plain values."""

    @abstractmethod
    def make(self) -> None:
        """Fill the folder, which this process holds alone; `file` is written last."""

    @abstractmethod
    def scenarios(self, split: str) -> list[Scenario]: ...

    @cached_property
    def folder(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.recipe(), sort_keys=True).encode()).hexdigest()[:12]
        return self.root / f"{self.name}-{digest}"

    @property
    def file(self) -> Path:
        return self.folder / EPISODES

    def build(self) -> Path:
        if not self.file.is_file():
            with exclusive(self.folder, wait=True):
                if not self.file.is_file():  # else another process has made it while this one waited
                    self.make()
        return self.file

    def episodes(self) -> list[Episode]:
        episodes = read_episodes(self.file)
        check_splits(episodes, self.file)
        return episodes

    def _write_recipe(self, manifest: Manifest) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self.folder / "recipe.json", json.dumps(self.recipe(), indent=2))
        manifest.write(self.folder / "manifest.json")


class ScenarioSource(Protocol):
    def load(self, domain: str) -> list[Scenario]: ...

    def recipe(self) -> dict[str, Any]:
        """What fixes the scenarios, in plain values; part of a corpus's recipe."""


class GeneratedScenarios:
    """Scenarios of the package's seeded generator."""

    def __init__(self, per_domain: int, seed: int) -> None:
        if per_domain < 10:
            raise UserError(f"scenarios.per_domain={per_domain}: at least 10, to split them 70/10/20")
        self.per_domain, self.seed = per_domain, seed

    def load(self, domain: str) -> list[Scenario]:
        return generate_scenarios(domain, self.per_domain, self.seed)

    def recipe(self) -> dict[str, Any]:
        return {"source": "generated", "per_domain": self.per_domain, "seed": self.seed}


class CsvScenarios:
    """Scenarios of CSV files such as the published ones.

    Args:
        files: domain -> path.
        separator: of the columns: `comma`, `semicolon` or `tab`.
    """

    def __init__(self, files: dict[str, str], separator: str = "comma") -> None:
        self.files = {domain: os.path.expanduser(path) for domain, path in files.items()}
        self.separator = separator

    def load(self, domain: str) -> list[Scenario]:
        if domain not in self.files:
            raise UserError(
                f"no CSV file for the domain '{domain}'; give +scenarios.files.{domain}=PATH, or "
                "leave it out of domains=[...]"
            )
        return load_csv(self.files[domain], domain, self.separator)

    def recipe(self) -> dict[str, Any]:
        return {"source": "csv", "files": {d: _content_hash(Path(path)) for d, path in sorted(self.files.items())}}


def _content_hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of a scenario CSV file") from error


_ASSETS = ("counterparty_lines", "perceivers", "personas.yaml", "phrasebook", "vocabularies")
ENOUGH_TO_TELL = 4  # episodes that all fail in the same call are an outage, not bad luck
_CARD = """---
license: apache-2.0
language: en
tags: [negotiation, emotion, offline-rl, simulated]
---
# Negotiation episodes with emotion-labelled turns

Made by `emodistill` from the recipe below. Both sides are **simulated**: the focal side is {focal}; the counterparty is
{counterparty}. The probability with which an emotion was drawn is stored as `emotion_prob`. No person took part, and no
claim about people follows from it. `docs/ethics.md` of the code says what it must not be used for.
The splits are by scenario, and no test scenario has an episode here.
"""


class PlayedCorpus(BuiltCorpus):
    """Episodes of a focal agent against a counterparty, over scenarios x seeds.

    A request to a language model that fails makes its episode invalid. A server that refuses for good, or is down,
    stops the build; the same command continues it.

    Args:
        name: first word of the folder's name.
        domains: which domains to play.
        scenarios: where the scenarios come from.
        episodes_per_scenario: one a seed; seeds cycle through the counterparty's personas.
        focal, counterparty: who plays.
        split_seed: fixes which scenarios are train, val and test.
        folder: where corpora lie; the package's cache by default.
        batch: episodes played in lockstep, and stored together; all of a domain and a seed by default.
        shard: `i/n` plays only the i-th of n shares, see `Shard`.
    """

    def __init__(
        self,
        name: str,
        domains: Sequence[str],
        scenarios: ScenarioSource,
        episodes_per_scenario: int,
        focal: "FocalAgentSpec",
        counterparty: "AgentSpec",
        split_seed: int,
        folder: str | None = None,
        batch: int | None = None,
        shard: str | None = None,
    ) -> None:
        super().__init__(name, folder)
        for domain in domains:
            load_domain(domain)
        if batch is not None and batch < 1:
            raise UserError(f"data.corpus.batch={batch}: at least one episode at a time")
        self.domains, self.scenario_source = list(domains), scenarios
        self.episodes_per_scenario, self.split_seed, self.batch = episodes_per_scenario, split_seed, batch
        self.focal, self.counterparty = focal, counterparty
        self.shard = Shard.parse(shard) if shard else None

    def recipe(self) -> dict[str, Any]:
        depends_on_assets = self.focal.depends_on_assets or self.counterparty.depends_on_assets
        return {
            "schema": SCHEMA_VERSION,
            "domains": self.domains,
            "scenarios": self.scenario_source.recipe(),
            "split_seed": self.split_seed,
            "episodes_per_scenario": self.episodes_per_scenario,
            "batch": self.batch,
            "focal": self.focal.recipe(),
            "counterparty": self.counterparty.recipe(),
            "assets": assets_fingerprint(_ASSETS if depends_on_assets else ()),
        }

    @cached_property
    def all_scenarios(self) -> list[Scenario]:
        return [scenario for domain in self.domains for scenario in self.scenario_source.load(domain)]

    @cached_property
    def manifest(self) -> Manifest:
        return split_of(self.all_scenarios, self.split_seed)

    def scenarios(self, split: str) -> list[Scenario]:
        """The scenarios of one split, in order of domain and id."""
        return [scenario for scenario in self.all_scenarios if self.manifest.split(scenario) == split]

    def build(self) -> Path:
        """Play what is missing; with `shard`, only its share, which is no corpus yet. Returns the Parquet file."""
        if self.shard and not self.file.is_file():
            return self._build_shard(self.shard)
        return super().build()

    def episodes(self) -> list[Episode]:
        if self.shard and not self.file.is_file():
            raise UserError(f"shard {self.shard} of a corpus is not the corpus; play all shards, then leave out shard=")
        return super().episodes()

    def parts(self) -> list[tuple[Game, ...]]:
        """All games, in the parts in which they are played."""
        found: list[tuple[Game, ...]] = []
        for domain in self.domains:
            seen = [s for s in self.all_scenarios if s.domain == domain and self.manifest.split(s) != "test"]
            games = [(scenario, seed) for seed in range(self.episodes_per_scenario) for scenario in seen]
            size = self.batch or max(len(seen), 1)
            found += [tuple(games[i : i + size]) for i in range(0, len(games), size)]
        return found

    def make(self) -> None:
        self._write_recipe(self.manifest)
        parts = self.parts()
        episodes = merged(self.folder, self.recipe(), [game for part in parts for game in part])
        if episodes is None:
            episodes = list(self._played(self.folder / "parts", list(enumerate(parts))))
        head = _CARD.format(focal=self.focal.describe(), counterparty=self.counterparty.describe())
        write_card(self.folder / "README.md", head, episodes, self.recipe())
        write_episodes(episodes, self.file)
        _remove(self.folder / "parts")

    def _build_shard(self, shard: "Shard") -> Path:
        folder, parts = shard.folder(self.folder), list(enumerate(self.parts()))
        if shard.count > len(parts):
            raise UserError(f"data.corpus.shard={shard}: there are {len(parts)} batches to share; use fewer shards")
        with exclusive(folder, wait=True):
            if not shard.done(self.folder):
                self._write_recipe(self.manifest)
                own = [(i, games) for i, games in parts if shard.has(i)]
                write_episodes(list(self._played(folder / "parts", own)), folder / EPISODES)
                shard.finish(self.folder, self.recipe())
                _remove(folder / "parts")
        return folder / EPISODES

    def _played(self, folder: Path, parts: Sequence[tuple[int, Sequence[Game]]]) -> Iterator[Episode]:
        """The episodes of these parts; whatever is not on disk yet is played first."""
        files = [folder / f"{index:05}.parquet" for index, _ in parts]
        missing = [(games, file) for (_, games), file in zip(parts, files, strict=True) if not file.is_file()]
        with progress("building the corpus", sum(len(games) for games, _ in missing)) as advance:
            agents = (self.focal.open(), self.counterparty.open()) if missing else ()
            for games, file in missing:
                write_episodes(self._play(games, *agents), file)
                advance(len(games))
        yield from (episode for file in files for episode in read_episodes(file))

    def _play(self, games: Sequence[Game], focal: Any, counterparty: Any) -> list[Episode]:
        played = play([Negotiation(scenario, seed) for scenario, seed in games], focal, counterparty)
        _check_outage(played)
        return [Episode.of(n, self.manifest.split(n.scenario), focal.selector.name, focal.name) for n in played]


def assets_fingerprint(assets: Sequence[str]) -> str:
    """Twelve hex digits over these assets and the domain files, which every prompt and scenario is made of."""
    package = files("emodistill")
    domains = [e for e in (package / "negotiation" / "domains").iterdir() if e.name.endswith(".yaml")]
    digest = hashlib.sha256()
    for place in [*(package / "assets" / name for name in assets), *sorted(domains, key=lambda entry: entry.name)]:
        for entry in _files_below(place):
            digest.update(entry.read_bytes())
    return digest.hexdigest()[:12]


def _files_below(place: Traversable) -> list[Traversable]:
    if not place.is_dir():
        return [place]
    entries = sorted(place.iterdir(), key=lambda entry: entry.name)
    return [file for entry in entries for file in _files_below(entry)]


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


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` shares of a corpus, counted from 1; it plays every `count`-th part.

    Shards may be played on different machines, one after the other or at once. Put their folders side by side in the
    folder of the corpus, each with its episodes.parquet and a shard.json, which is written last and holds the recipe
    and the hash of the episodes. Who builds the corpus without `shard` merges them: of one recipe, all there and
    finished, every game once.
    """

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
        atomic_write(self.folder(corpus) / "shard.json", json.dumps(content, indent=2) + "\n")

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
            raise UserError(f"{folder / EPISODES} is not as it was written; copy or play this shard again")
        return read_episodes(folder / EPISODES)


def merged(corpus: Path, recipe: dict[str, Any], games: Sequence[Game]) -> list[Episode] | None:
    """The episodes of all shards in the order of the games, or None where there are no shards.

    Raises:
        UserError: if shards are missing, unfinished or of different recipes, or a game is played twice or not at all.
    """
    names = [re.fullmatch(r"shard-(\d+)-of-(\d+)", path.name) for path in sorted(corpus.iterdir())]
    shards = [Shard(int(name[1]), int(name[2])) for name in names if name]
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
    return hashlib.sha256((folder / EPISODES).read_bytes()).hexdigest()
