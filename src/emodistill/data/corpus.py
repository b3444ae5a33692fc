"""Self-play: a language model on the focal side against whatever sits opposite, usually a language model as well."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

from emodistill.data.agent_specs import AgentSpec, FocalAgentSpec, TeacherSpec
from emodistill.data.schema import SCHEMA, SCHEMA_VERSION, Episode, read_episodes, write_episodes
from emodistill.errors import UserError
from emodistill.files import atomic_write, exclusive
from emodistill.language_models.embedded import cache_dir
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation
from emodistill.negotiation.scenarios import Scenario, load_csv
from emodistill.negotiation.schedule import ConcessionSchedule
from emodistill.negotiation.splits import Manifest, check_no_leak, split_of
from emodistill.progress import progress

# ---- asset_fingerprints ----
# Short fingerprints of the package's own files that a corpus is made of.

_LINES = ("counterparty_lines", "perceivers", "personas.yaml", "phrasebook", "vocabularies")


def assets_fingerprint() -> str:
    """Twelve hex digits over what teacher and simulation are made of: their lines, weights and the domain files."""
    assets = files("emodistill") / "assets"
    return _fingerprint([assets / name for name in _LINES] + [_domains()])


def domains_fingerprint() -> str:
    """Twelve hex digits over the domain files, which every prompt and every generated scenario comes from."""
    return _fingerprint([_domains()])


def _domains() -> Traversable:
    return files("emodistill") / "negotiation" / "domains"


def _fingerprint(places: list[Traversable]) -> str:
    digest = hashlib.sha256()
    for place in places:
        for entry in _walk(place):
            digest.update(entry.read_bytes())
    return digest.hexdigest()[:12]


def _walk(place: Traversable) -> list[Traversable]:
    if not place.is_dir():
        return [place]
    entries = sorted((e for e in place.iterdir() if e.name != "__pycache__"), key=lambda entry: entry.name)
    return [leaf for entry in entries for leaf in _walk(entry)]


# ---- card ----
# The dataset card that is written next to a corpus.

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
    """What went wrong: attempts at a turn out of role, offers that had to be added, invalid episodes."""
    lines = []
    for side in (FOCAL, COUNTERPARTY):
        turns = [turn for episode in episodes for turn in episode.turns if turn.speaker == side]
        kinds = Counter(kind for turn in turns for kind in turn.role_violations)
        by_kind = "".join(f", {count} {kind}" for kind, count in kinds.most_common())
        affected, appended = (
            sum(bool(turn.role_violations) for turn in turns),
            sum(turn.offer_appended for turn in turns),
        )
        lines.append(f"| {side} | {len(turns)} | {affected} | {kinds.total()}{by_kind} | {appended} |")
    faults = Counter(episode.fault for episode in episodes if episode.end == "invalid")
    invalid = "".join(f"- {count} x {reason}\n" for reason, count in faults.most_common(10))
    head = "| side | turns | turns with a role violation | role violations | offers appended |\n|---|---|---|---|---|\n"
    return f"\n{head}" + "\n".join(lines) + "\n" + (f"\nInvalid episodes:\n\n{invalid}" if invalid else "")


# ---- corpus_file ----
# A corpus you bring as a Parquet file, and what is checked of every corpus that is read.


class Corpus(Protocol):
    def build(self) -> Path:
        """Make what is missing, resumably; returns the Parquet file."""

    def episodes(self) -> list[Episode]: ...


class CorpusFile:
    """A corpus you bring: a Parquet file of the schema in `schema.py`."""

    def __init__(self, path: str, domains: Sequence[str] | None = None) -> None:
        self.path, self.domains = Path(path), domains

    def build(self) -> Path:
        if not self.path.is_file():
            raise UserError(f"data.corpus.path={self.path} does not exist; point it at an episodes.parquet")
        return self.path

    def episodes(self) -> list[Episode]:
        episodes = of_domains(read_episodes(self.path), self.domains, self.path)
        check_splits(episodes, self.path)
        return episodes

    def scenarios(self, split: str) -> list[Scenario]:
        """The scenarios that have episodes in a split, each once, in the order of the file."""
        found = {(e.scenario.domain, e.scenario.id): e.scenario for e in self.episodes() if e.split == split}
        if not found:
            raise UserError(
                f"{self.path} has no episode in the split '{split}'; give data=bundled, or a corpus with some"
            )
        return list(found.values())


def of_domains(episodes: list[Episode], domains: Sequence[str] | None, path: Path) -> list[Episode]:
    """The episodes of these domains (all of them for None); none at all is a UserError."""
    kept = [episode for episode in episodes if domains is None or episode.scenario.domain in domains]
    if not kept:
        there = sorted({episode.scenario.domain for episode in episodes})
        raise UserError(f"{path} has no episode of {list(domains or [])}; it has the domains {there}")
    return kept


def check_splits(episodes: Sequence[Episode], path: Path) -> None:
    """A scenario, or one and the same context, in two splits is a UserError that names file and scenario."""
    splits: dict[str, dict[str, Scenario]] = {}
    for episode in episodes:
        splits.setdefault(episode.split, {})[episode.scenario.id] = episode.scenario
    try:
        check_no_leak({split: scenarios.values() for split, scenarios in splits.items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


# ---- scenario_sources ----
# Where scenarios come from: the generator, or the published CSV files.


class ScenarioSource(Protocol):
    def load(self, domain: str) -> list[Scenario]: ...

    def recipe(self) -> dict[str, Any]:
        """What fixes the scenarios, in plain values; part of the corpus's identity."""


class GeneratedScenarios:
    """Scenarios of this project's seeded generator."""

    def __init__(self, per_domain: int, seed: int) -> None:
        if per_domain < 10:
            raise UserError(f"scenarios.per_domain={per_domain}: at least 10, to split them 70/10/20")
        self.per_domain, self.seed = per_domain, seed

    def load(self, domain: str) -> list[Scenario]:
        return generate_scenarios(domain, self.per_domain, self.seed)

    def recipe(self) -> dict[str, Any]:
        return {"source": "generated", "per_domain": self.per_domain, "seed": self.seed}


class CsvScenarios:
    """Scenarios of the published CSV files; `files` maps domain to path."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def load(self, domain: str) -> list[Scenario]:
        if domain not in self.files:
            raise UserError(
                f"no CSV file for the domain '{domain}'; give +scenarios.files.{domain}=PATH, or "
                "leave it out of domains=[...]"
            )
        return load_csv(self.files[domain], domain)

    def recipe(self) -> dict[str, Any]:
        contents = {d: hashlib.sha256(Path(path).read_bytes()).hexdigest() for d, path in sorted(self.files.items())}
        return {"source": "csv", "files": contents}


# ---- shards ----
# A corpus in shards: shard i/n plays every n-th part in a folder of its own, and who builds the whole merges them.
#
#     <corpus>/shard-1-of-4/episodes.parquet   what this shard played
#                           shard.json         written last: its recipe, and the hash of the episodes
#
# Shards may be played on different machines, one after the other or at once; put their folders side by side in the folder
# of the corpus. What is merged is checked: one recipe, all shards there and finished, every game once.

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


# ---- played_corpus ----
# A corpus that is played here: a focal seat against a counterparty over scenarios x seeds, built once from a recipe.
#
# It lives in a folder named by a hash of its recipe: change the recipe and another folder is built, and nothing already
# made is touched. It is played part by part, some episodes in lockstep; a part on disk is not played again, and no part
# depends on another, so a build that was killed goes on and ends as if nothing had happened. Several machines share the
# work as shards (`shards`). Episodes of test scenarios are never in it.

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
        focal: FocalAgentSpec,
        counterparty: AgentSpec,
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
            "assets": assets_fingerprint() if depends_on_assets else domains_fingerprint(),
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
        atomic_write(folder / "recipe.json", json.dumps(self.recipe(), indent=2))
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


# ---- corpus ----
# The bundled corpus: episodes of the phrasebook teacher, built here from scenarios and a seed.
#
# Its behaviour policy draws the emotion of every focal turn uniformly and stores the probability, so importance sampling
# is possible. Opposite sits the simulation, or any other counterparty.


class BundledCorpus(PlayedCorpus):
    """The corpus out of the box: the phrasebook teacher with uniformly random emotions.

    Args:
        vocabulary: name of the emotion vocabulary.
        schedule: the focal side's concession schedule.
        domains, scenarios, episodes_per_scenario, counterparty, split_seed, folder: see `PlayedCorpus`.
    """

    kind = "bundled"

    def __init__(
        self,
        domains: Sequence[str],
        scenarios: ScenarioSource,
        episodes_per_scenario: int,
        counterparty: AgentSpec,
        vocabulary: str,
        schedule: ConcessionSchedule,
        split_seed: int,
        folder: str | None = None,
    ) -> None:
        teacher = TeacherSpec(vocabulary, schedule)
        super().__init__(domains, scenarios, episodes_per_scenario, teacher, counterparty, split_seed, folder)


class SelfPlayCorpus(PlayedCorpus):
    """Episodes of language models (docs/selfplay.md); see `PlayedCorpus`, and `ChatAgentSpec` for `focal`.

    A request that fails makes its episode invalid; a server that refuses for good, or is down, stops the build, which
    goes on where it stopped when the same command is run again.
    """

    kind = "selfplay"
