"""A corpus you bring as a Parquet file, and what is checked of every corpus that is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from emodistill.data.schema import Episode, read_episodes
from emodistill.errors import UserError
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.splits import check_no_leak


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
