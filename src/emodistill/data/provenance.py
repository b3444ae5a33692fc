"""What a stage was trained on, kept beside its checkpoints, so that nobody tests on it by mistake.

    checkpoints/<run>/<stage>/corpus.json    {"episodes": file, "sha256": its hash,
                                              "scenarios": {fingerprint of the content: id}}

A stage that is continued has to learn from the same file, by its hash.

Scenarios are compared by content: another generator may give the same id to something else, and two files may call one
situation by different names.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emodistill.data.corpus import Corpus
from emodistill.data.schema import Episode, read_episodes
from emodistill.errors import UserError
from emodistill.files import atomic_write, file_hash
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.splits import content_of

NAME = "corpus.json"


@dataclass(frozen=True)
class Provenance:
    """A corpus file with its hash, and the content and id of each scenario that was trained or validated on.

    The hash is None where a stage was begun before it was kept.
    """

    episodes: str
    scenarios: dict[str, str]
    sha256: str | None = None

    @classmethod
    def of(cls, file: Path, episodes: Sequence[Episode]) -> "Provenance":
        scenarios = {content_of(episode.scenario): episode.scenario.id for episode in episodes}
        return cls(str(file), scenarios, file_hash(file))

    @classmethod
    def read(cls, path: Path) -> "Provenance":
        """What `write` kept.

        Raises:
            UserError: if it is damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(content["episodes"], content["scenarios"], content.get("sha256"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged; train {path.parent.name} again in another run=...") from error

    def write(self, stage_dir: Path) -> None:
        content = {"episodes": self.episodes, "sha256": self.sha256, "scenarios": self.scenarios}
        atomic_write(stage_dir / NAME, json.dumps(content, indent=1) + "\n")

    def check_continues(self, stage_dir: Path) -> None:
        """Refuse to go on with a stage on other data than it was begun with.

        Raises:
            UserError: naming both files.
        """
        path = stage_dir / NAME
        before = Provenance.read(path) if path.is_file() else self
        if before.sha256 not in (None, self.sha256):
            raise UserError(
                f"data: {self.episodes} is not what {stage_dir} was begun with ({before.episodes} as it was then); put "
                "that back, or choose another run=..."
            )


def of_run(run_dir: Path) -> dict[str, Provenance]:
    """Stage -> what it was trained on; stages from before this was kept are left out."""
    return {path.parent.name: Provenance.read(path) for path in sorted(run_dir.glob(f"*/{NAME}"))}


def check_unseen(run_dir: Path, scenarios: Sequence[Scenario]) -> None:
    """Raises UserError, naming scenario and stage, if a test scenario was trained on in this run."""
    for stage, provenance in of_run(run_dir).items():
        for scenario in scenarios:
            if (name := provenance.scenarios.get(content_of(scenario))) is not None:
                known = "" if name == scenario.id else f" (there called {name})"
                raise UserError(
                    f"test scenario {scenario.id} was trained on{known}: {run_dir / stage} learnt from "
                    f"{provenance.episodes}; evaluate with the data= and scenarios= that this run was trained with"
                )


def training_episodes(run_dir: Path, domains: Sequence[str], corpus: Corpus) -> list[Episode]:
    """The episodes that a run's selector learnt from; without one, or where they are gone, those of another stage.

    Without any record, or where all of these files are gone, they are those of the configured corpus. A file without
    episodes of these domains is returned whole: the run was trained in other domains.

    Raises:
        UserError: if that file is not the one that was learnt from, by its hash.
    """
    learnt = of_run(run_dir)
    stages = sorted(learnt, key=lambda name: (name != "iql", name))
    for stage in stages:
        if (file := Path(learnt[stage].episodes)).is_file():
            if learnt[stage].sha256 not in (None, file_hash(file)):
                raise UserError(
                    f"{file} is not what {run_dir / stage} learnt from; put that file back, or train in another run=..."
                )
            found = read_episodes(file)
            return [episode for episode in found if episode.scenario.domain in domains] or found
    built = corpus.build()
    if stages and learnt[stages[0]].sha256 not in (None, file_hash(built)):
        raise UserError(
            f"{learnt[stages[0]].episodes}, which {run_dir / stages[0]} learnt from, is gone, and {built} is another "
            "corpus; put that file back, or name where it is now with data.corpus.path="
        )
    return corpus.episodes()
