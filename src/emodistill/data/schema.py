"""An episode, and the Parquet files of episodes: one row each, with a checked schema."""

import glob
import io
import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emodistill.errors import UserError
from emodistill.files import atomic_write
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.protocol import FOCAL, End, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

SCHEMA_VERSION = 1
TURN = pa.struct(
    [
        ("round", pa.int32()),
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("emotion", pa.string()),
        ("emotion_prob", pa.float64()),
        ("offer", pa.float64()),
        ("act", pa.string()),
        ("offer_appended", pa.bool_()),
        ("slips", pa.list_(pa.string())),
    ]
)
SCHEMA = pa.schema(
    [
        ("episode_id", pa.string()),
        ("domain", pa.string()),
        ("scenario_id", pa.string()),
        ("split", pa.string()),
        ("context", pa.string()),
        ("focal_target", pa.float64()),
        ("counterparty_target", pa.float64()),
        ("unit", pa.string()),
        ("behaviour", pa.string()),
        ("focal_agent", pa.string()),
        ("counterparty", pa.string()),
        ("seed", pa.int64()),
        ("turns", pa.list_(TURN)),
        ("end", pa.string()),
        ("deal_value", pa.float64()),
        ("utility", pa.float64()),
        ("fault", pa.string()),
        ("schema_version", pa.int32()),
    ]
)


def _turn_row(turn: Turn) -> dict[str, Any]:
    """The columns of a turn: its fields, but for `role_violations`, whose column is `slips`."""
    row = asdict(turn)
    return {"slips" if name == "role_violations" else name: value for name, value in row.items()}


def _turn(row: dict[str, Any]) -> Turn:
    """The inverse of `_turn_row`."""
    fields = {name: value for name, value in row.items() if name != "slips"}
    return Turn(**fields, role_violations=tuple(row.get("slips") or ()))


@dataclass(frozen=True)
class Episode:
    """A finished negotiation as the corpus stores it; `behaviour` names the policy that drew the emotions."""

    episode_id: str
    split: str
    scenario: Scenario
    behaviour: str
    focal_agent: str
    counterparty: str
    seed: int
    turns: tuple[Turn, ...]
    end: End
    deal_value: float | None
    fault: str | None = None

    @property
    def focal_turns(self) -> list[Turn]:
        """The focal side's turns, in order."""
        return [turn for turn in self.turns if turn.speaker == FOCAL]

    @property
    def utility(self) -> float:
        return self.scenario.utility(self.deal_value)

    @classmethod
    def of(cls, negotiation: Negotiation, split: str, behaviour: str, focal_agent: str) -> "Episode":
        """The record of a negotiation that is over; its id is made of domain, scenario, focal agent and seed."""
        if negotiation.end is None:
            raise ValueError(f"scenario {negotiation.scenario.id}: the negotiation is not over")
        scenario = negotiation.scenario
        return cls(
            f"{scenario.domain}/{scenario.id}/{focal_agent}/{negotiation.seed}",
            split,
            scenario,
            behaviour,
            focal_agent,
            negotiation.counterparty,
            negotiation.seed,
            tuple(negotiation.turns),
            negotiation.end,
            negotiation.deal_value,
            negotiation.fault,
        )

    def row(self) -> dict[str, Any]:
        scenario = self.scenario
        return {
            "episode_id": self.episode_id,
            "domain": scenario.domain,
            "scenario_id": scenario.id,
            "split": self.split,
            "context": json.dumps(scenario.context, ensure_ascii=False),
            "focal_target": scenario.focal_target,
            "counterparty_target": scenario.counterparty_target,
            "unit": scenario.rules.unit,
            "behaviour": self.behaviour,
            "focal_agent": self.focal_agent,
            "counterparty": self.counterparty,
            "seed": self.seed,
            "turns": [_turn_row(turn) for turn in self.turns],
            "end": self.end,
            "deal_value": self.deal_value,
            "utility": self.utility,
            "fault": self.fault,
            "schema_version": SCHEMA_VERSION,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Episode":
        targets = (row["focal_target"], row["counterparty_target"])
        scenario = Scenario(row["scenario_id"], row["domain"], *targets, json.loads(row["context"]))
        load_domain(scenario.domain)  # an unknown one is an error here, not in the middle of a run
        for turn in row["turns"]:
            if turn["offer"] is not None and not math.isfinite(turn["offer"]):
                raise UserError(f"the {turn['speaker']}'s offer in round {turn['round']} is {turn['offer']}")
        turns = tuple(map(_turn, row["turns"]))
        given = (row["behaviour"], row["focal_agent"], row["counterparty"], row["seed"])
        return cls(
            row["episode_id"], row["split"], scenario, *given, turns, row["end"], row["deal_value"], row["fault"]
        )


def write_episodes(episodes: Iterable[Episode], path: Path) -> None:
    """Write a Parquet file, whole or not at all."""
    table = pa.Table.from_pylist([episode.row() for episode in episodes], schema=SCHEMA)
    content = io.BytesIO()
    pq.write_table(table, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content.getvalue())


def read_episodes(path: Path) -> list[Episode]:
    """Read and check a corpus.

    Raises:
        UserError: if the file is missing, is no Parquet of this schema, is empty, or a row of it is malformed.
    """
    remedy = "delete its folder to have it built again, or point data.corpus.path at a corpus"
    if not path.is_file():
        raise UserError(f"the corpus {path} does not exist; {remedy}")
    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}); {remedy}") from error
    missing = [name for name in SCHEMA.names if name not in footer.schema.to_arrow_schema().names]
    if missing:
        raise UserError(f"{path} is not an episode corpus: the columns {', '.join(missing)} are missing; {remedy}")
    if footer.num_rows == 0:
        raise UserError(f"the corpus {path} is empty; {remedy}")
    return [_checked(row, path, number) for number, row in enumerate(_rows(path, remedy))]


def _rows(path: Path, remedy: str) -> list[dict[str, Any]]:
    """All rows, read through `datasets`, which keeps an Arrow copy of a file: ours is gone once the rows are read."""
    import datasets  # two seconds, which nobody should pay who reads no corpus

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="emodistill-") as copy:
        try:  # the name is taken for a pattern, so it is escaped
            table = datasets.Dataset.from_parquet(glob.escape(str(path)), cache_dir=copy, keep_in_memory=True)
        except datasets.exceptions.DatasetGenerationError as error:
            why = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{path} is not a readable Parquet file ({why}); {remedy}") from error
    return list(table.to_list())


def _checked(row: dict[str, Any], path: Path, number: int) -> Episode:
    if row["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{path}, row {number}: schema version {row['schema_version']}, this code reads {SCHEMA_VERSION}"
        )
    try:
        return Episode.from_row(row)
    except (UserError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}, row {number} ({row['episode_id']}): {error}; remove the row or mend it") from error
