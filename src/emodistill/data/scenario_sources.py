"""Where scenarios come from: the generator, or the published CSV files."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

from emodistill.errors import UserError
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.scenarios import Scenario, load_csv


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
