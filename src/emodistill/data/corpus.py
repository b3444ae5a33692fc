"""Corpora of episodes: a Parquet file that you bring, or one that is played here once and kept.

    <cache>/corpora/<name>-<hash of the recipe>/
        recipe.json         everything that fixes the corpus
        manifest.json       which scenario is in which split
        README.md           the dataset card
        episodes.parquet    written last, whole or not at all
        parts/              episodes played so far; gone when the corpus is whole

Another recipe is another folder, so nothing that was made before is touched. A corpus is played in parts that do not
depend on each other; each is a piece for an executor. A part on disk is not played again, so a build that was killed
continues, and ends with the same bytes. Test scenarios are never played.
"""

import hashlib
import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from emodistill.checks import check_whole, is_whole
from emodistill.data.card import write_card
from emodistill.data.schema import SCHEMA_VERSION, Episode, read_episodes, write_episodes
from emodistill.errors import UserError
from emodistill.execution.pieces import Advance, Executor, Needs, OneAfterOther, Piece, Share, digest, plan
from emodistill.files import atomic_write, cache_dir, exclusive
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario, load_csv
from emodistill.negotiation.splits import Manifest, check_no_leak, split_of

if TYPE_CHECKING:  # imports torch, which nobody needs who reads a corpus
    from emodistill.data.agent_specs import AgentSpec, FocalAgentSpec

EPISODES = "episodes.parquet"
logger = logging.getLogger(__name__)
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
        if not isinstance(path, str):
            raise UserError(f"data.corpus.path={path}: one file, an episodes.parquet")
        if isinstance(domains, str):
            raise UserError(f"domains={domains}: a list, such as domains=[{domains}]")
        for domain in domains or ():
            load_domain(domain)  # an unknown name would silently leave its episodes out
        self.path, self.domains = Path(os.path.expanduser(path)), domains

    def build(self) -> Path:
        if self.path.is_dir():
            raise UserError(f"data.corpus.path={self.path} is a folder; give the episodes.parquet in it")
        if not self.path.is_file():
            raise UserError(f"data.corpus.path={self.path} does not exist; point it at an episodes.parquet")
        return self.path

    def episodes(self) -> list[Episode]:
        episodes = read_episodes(self.path)
        found = [episode for episode in episodes if self.domains is None or episode.scenario.domain in self.domains]
        if not found:
            there = sorted({episode.scenario.domain for episode in episodes})
            raise UserError(f"{self.path} has no episode of {list(self.domains or [])}; it has the domains {there}")
        twice = next((name for name, count in Counter(one.episode_id for one in found).items() if count > 1), None)
        if twice is not None:
            raise UserError(f"{self.path}: two episodes have the episode_id {twice}; give each its own")
        check_splits(found, self.path)
        for one in found:
            _check_bounds(one, self.path)
        if left_out := len(episodes) - len(found):
            others = sorted({one.scenario.domain for one in episodes} - {one.scenario.domain for one in found})
            logger.warning(
                "%s: %d of %d episodes are not used: they are of the domains %s, which domains=[...] lacks",
                self.path,
                left_out,
                len(episodes),
                ", ".join(others),
            )
        return found

    def scenarios(self, split: str) -> list[Scenario]:
        """The scenarios that have episodes in a split, each once, in the order of the file."""
        found: dict[tuple[str, str], Scenario] = {}
        for one in (episode.scenario for episode in self.episodes() if episode.split == split):
            if found.setdefault((one.domain, one.id), one) != one:
                raise UserError(
                    f"{self.path}: the split '{split}' has two scenarios with the id {one.id}; give each its own"
                )
        if not found:
            raise UserError(
                f"{self.path} has no episode in the split '{split}'; give data=bundled, or a corpus with some"
            )
        return list(found.values())


def _check_bounds(episode: Episode, path: Path) -> None:
    """A target or offer outside the domain's bounds is a UserError: a single one would dominate the observations."""
    rules = episode.scenario.rules
    named = {"focal_target": episode.scenario.focal_target, "counterparty_target": episode.scenario.counterparty_target}
    offers = {f"the {turn.speaker}'s offer in round {turn.round}": turn.offer for turn in episode.turns}
    for name, value in (named | offers).items():
        if value is not None and not rules.allows(value):
            low, high = rules.bounds
            raise UserError(
                f"{path}: episode {episode.episode_id}: {name} is {value:g} {rules.unit}, outside the bounds of the "
                f"domain {rules.name}, {low:g} to {high:g}"
            )


def check_splits(episodes: Sequence[Episode], path: Path) -> None:
    """A scenario, or one and the same context, in two splits is a UserError that names file and scenario."""
    splits: dict[str, dict[str, list[Scenario]]] = {}
    for episode in episodes:
        of_id = splits.setdefault(episode.split, {}).setdefault(episode.scenario.id, [])
        if episode.scenario not in of_id:  # one id may have several contents
            of_id.append(episode.scenario)
    try:
        check_no_leak({split: [s for of_id in found.values() for s in of_id] for split, found in splits.items()})
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
        if not is_whole(per_domain, 10):
            raise UserError(f"scenarios.per_domain={per_domain}: a whole number of at least 10, to split them 70/10/20")
        check_whole("scenarios.seed", seed, 0)
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
MODEL_S, SIMULATED_S = 3.0, 0.01  # of one core, an episode: spoken by a small model here, or by nobody here
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
        shard: `i/n` plays only the i-th of n shares of the parts.
        executor: plays the parts; None plays them here, one after the other.
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
        executor: Executor | None = None,
    ) -> None:
        super().__init__(name, folder)
        for domain in domains:
            load_domain(domain)
        check_whole("data.corpus.batch", batch, null="for all of a domain and a seed")
        check_whole("data.corpus.episodes_per_scenario", episodes_per_scenario)
        check_whole("data.corpus.split_seed", split_seed, 0)
        self.domains, self.scenario_source = list(domains), scenarios
        self.episodes_per_scenario, self.split_seed, self.batch = episodes_per_scenario, split_seed, batch
        self.focal, self.counterparty = focal, counterparty
        self.share = Share.parse(shard) if shard else None
        self.executor = executor or OneAfterOther()

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
        """Play what is missing, and return the Parquet file; with `shard` only a share, and return where it is."""
        if not self.share or self.file.is_file():
            return super().build()
        with exclusive(self.folder / "parts" / self.share.slug, wait=True):
            with exclusive(self.folder / "parts", wait=True):  # several shares may begin at once
                self._write_recipe(self.manifest)
            self._play_parts(self.share)
        return self.folder / "parts"

    def episodes(self) -> list[Episode]:
        if self.share and not self.file.is_file():
            raise UserError(f"shard {self.share} of a corpus is not the corpus; play all shares, then leave out shard=")
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
        episodes = [episode for games, file in self._play_parts() for episode in _read_part(games, file)]
        head = _CARD.format(focal=self.focal.describe(), counterparty=self.counterparty.describe())
        write_card(self.folder / "README.md", head, episodes, self.recipe())
        write_episodes(episodes, self.file)
        shutil.rmtree(self.folder / "parts", ignore_errors=True)

    def _play_parts(self, share: Share | None = None) -> list[tuple[tuple[Game, ...], Path]]:
        """Play what is missing, of a share only where there is one; returns all parts with their files."""
        recipe, parts = self.recipe(), self.parts()
        if share and share.count > len(parts):
            raise UserError(f"shard={share}: there are {len(parts)} batches to share; use fewer shares")
        names = [digest({"recipe": recipe, "part": [_key(game) for game in games]}) for games in parts]
        found = [(games, self.folder / "parts" / f"{name}.parquet") for games, name in zip(parts, names, strict=True)]
        here = self.focal.is_local_model or self.counterparty.is_local_model
        pieces = [
            Piece(
                name=name,
                title=f"part {file.stem} of {self.folder.name}",
                open=partial(_Table, self.focal, self.counterparty, self.manifest),
                kit=self.folder.name,
                task=(games, file),
                done=file.is_file,
                size=len(games),
                needs=Needs(here, seconds=len(games) * (MODEL_S if here else SIMULATED_S)),
            )
            for name, (games, file) in zip(names, found, strict=True)
        ]
        self.executor.run("building the corpus", plan(pieces, share).now)
        return found


class _Table:
    """Both sides, opened: what plays parts of a corpus."""

    def __init__(self, focal: "FocalAgentSpec", counterparty: "AgentSpec", manifest: Manifest) -> None:
        self.focal, self.counterparty, self.manifest = focal.open(), counterparty.open(), manifest

    def __call__(self, games: Sequence[Game], file: Path, advance: Advance) -> None:
        negotiations = [Negotiation(scenario, seed) for scenario, seed in games]
        played = play(negotiations, self.focal, self.counterparty, over(advance))
        _check_outage(played)
        source = (self.focal.selector.name, self.focal.name)
        write_episodes([Episode.of(n, self.manifest.split(n.scenario), *source) for n in played], file)


def over(advance: Advance) -> Callable[[int, int], None]:
    """Tells a bar of progress how many negotiations are over; see `negotiation.engine.play`."""
    told = 0

    def on_round(finished: int, _total: int) -> None:
        nonlocal told
        if finished > told:
            advance(finished - told)
            told = finished

    return on_round


def _key(game: Game) -> tuple[str, str, int]:
    scenario, seed = game
    return scenario.domain, scenario.id, seed


def _read_part(games: Sequence[Game], file: Path) -> list[Episode]:
    episodes = read_episodes(file)
    if [(e.scenario.domain, e.scenario.id, e.seed) for e in episodes] != [_key(game) for game in games]:
        raise UserError(f"{file} does not hold the episodes that it should; delete it and run the same command again")
    return episodes


def assets_fingerprint(assets: Sequence[str], with_domains: bool = True) -> str:
    """Twelve hex digits over these assets and, if wanted, the domain files, which prompts and scenarios are made of."""
    package = files("emodistill")
    found = (package / "negotiation" / "domains").iterdir() if with_domains else ()
    domains = [e for e in found if e.name.endswith(".yaml")]
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
