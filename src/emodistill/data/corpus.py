"""The bundled corpus: episodes of the phrasebook teacher against the simulation, built here from scenarios and a seed.

It lives in a folder named by a hash of its recipe: change the recipe and another folder is built, and
nothing already made is touched. Its behaviour policy draws the emotion of every focal turn uniformly and stores the
probability, so importance sampling is possible. Episodes of test scenarios are never in it.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from emodistill.counterparties.behavioural import BehaviouralCounterparty
from emodistill.data.card import write_card
from emodistill.data.corpus_file import check_splits
from emodistill.data.scenario_sources import ScenarioSource
from emodistill.data.schema import SCHEMA_VERSION, Episode, read_episodes, write_episodes
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.language_models.embedded import cache_dir
from emodistill.locks import exclusive
from emodistill.negotiation.agents import FocalAgent
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.engine import play
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.schedule import ConcessionSchedule
from emodistill.negotiation.selectors import UniformEmotion
from emodistill.negotiation.splits import Manifest, split_of
from emodistill.progress import progress

EPISODES = "episodes.parquet"


class BundledCorpus:
    """The corpus out of the box: the phrasebook teacher with uniformly random emotions against the simulation.

    Args:
        domains: which domains to build and read.
        scenarios: where the scenarios come from.
        episodes_per_scenario: one a seed; seeds cycle through the personas, so a multiple of their number
            balances them.
        personas: the simulated counterparties.
        vocabulary: name of the emotion vocabulary.
        schedule: the focal side's concession schedule.
        split_seed: fixes which scenarios are train, val and test.
        folder: where corpora lie; the package's cache by default.
    """

    def __init__(
        self,
        domains: Sequence[str],
        scenarios: ScenarioSource,
        episodes_per_scenario: int,
        personas: Sequence[str],
        vocabulary: str,
        schedule: ConcessionSchedule,
        split_seed: int,
        folder: str | None = None,
    ) -> None:
        for domain in domains:
            load_domain(domain)
        self.domains, self.scenario_source = list(domains), scenarios
        self.episodes_per_scenario, self.personas = episodes_per_scenario, list(personas)
        self.vocabulary, self.schedule = load_vocabulary(vocabulary), schedule
        self.split_seed = split_seed
        self.root = Path(folder) if folder else cache_dir() / "corpora"

    def recipe(self) -> dict[str, Any]:
        """Everything that fixes the corpus, in plain values."""
        return {
            "schema": SCHEMA_VERSION,
            "domains": self.domains,
            "scenarios": self.scenario_source.recipe(),
            "split_seed": self.split_seed,
            "episodes_per_scenario": self.episodes_per_scenario,
            "personas": self.personas,
            "vocabulary": [self.vocabulary.name, self.vocabulary.fingerprint],
            "schedule": vars(self.schedule),
            "assets": assets_fingerprint(),
        }

    @cached_property
    def folder(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.recipe(), sort_keys=True).encode()).hexdigest()[:12]
        return self.root / f"bundled-{digest}"

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
        target = self.folder / EPISODES
        if target.is_file():
            return target
        with exclusive(self.folder, wait=True):
            if not target.is_file():
                self._build(target)
        return target

    def episodes(self) -> list[Episode]:
        episodes = read_episodes(self.folder / EPISODES)
        check_splits(episodes, self.folder / EPISODES)
        return episodes

    def _build(self, target: Path) -> None:
        """Play part by part (a domain and a seed a part); a part on disk is not played again."""
        (self.folder / "recipe.json").write_text(json.dumps(self.recipe(), indent=2), encoding="utf-8")
        self.manifest.write(self.folder / "manifest.json")
        seeds = range(self.episodes_per_scenario)
        parts = [
            (domain, seed, self.folder / "parts" / f"{domain}-{seed:03}.parquet")
            for domain in self.domains
            for seed in seeds
        ]
        counterparty = BehaviouralCounterparty(load_perceiver("counterparty"), self.personas)
        with progress("building the corpus", len(parts)) as advance:
            for domain, seed, part in parts:
                if not part.is_file():
                    write_episodes(self._play(domain, seed, counterparty), part)
                advance()
        episodes = [episode for _, _, part in parts for episode in read_episodes(part)]
        write_card(self.folder / "README.md", episodes, self.recipe())
        write_episodes(episodes, target)
        for _, _, part in parts:
            part.unlink()
        (self.folder / "parts").rmdir()

    def _play(self, domain: str, seed: int, counterparty: BehaviouralCounterparty) -> list[Episode]:
        seen = [s for s in self.all_scenarios if s.domain == domain and self.manifest.split(s) != "test"]
        focal = FocalAgent(UniformEmotion(self.vocabulary), self.schedule, PhrasebookSpeaker(self.vocabulary))
        played = play([Negotiation(scenario, seed) for scenario in seen], focal, counterparty)
        return [Episode.of(n, self.manifest.split(n.scenario), "uniform", focal.name) for n in played]


def assets_fingerprint() -> str:
    """Twelve hex digits over what the corpus is made of: the package's assets and domain files."""
    digest = hashlib.sha256()
    for folder in (files("emodistill") / "assets", files("emodistill") / "negotiation" / "domains"):
        for entry in _walk(folder):
            digest.update(entry.read_bytes())
    return digest.hexdigest()[:12]


def _walk(folder: Traversable) -> list[Traversable]:
    entries = sorted((e for e in folder.iterdir() if e.name != "__pycache__"), key=lambda entry: entry.name)
    return [leaf for entry in entries for leaf in (_walk(entry) if entry.is_dir() else [entry])]
