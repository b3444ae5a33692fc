"""What people agreed to have stored: their negotiations in the corpus schema, with their ratings in a further column.

`data=file` reads the file as it reads any corpus; the column `ratings` is JSON.
"""

import io
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from emodistill.data.arrow_schema import SCHEMA
from emodistill.data.schema import HUMAN, Episode
from emodistill.errors import UserError
from emodistill.files import atomic_write, updating
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation
from emodistill.negotiator import Conversation

SPLIT = "test"  # no stage learns from what is measured with people
_SCHEMA = SCHEMA.append(pa.field("ratings", pa.string()))


@dataclass(frozen=True)
class Records:
    """The file of a run's recorded negotiations; several processes may add to it."""

    file: Path

    def add(self, talk: Conversation, rating: Mapping[str, float | str], blind: bool) -> str:
        """Store one conversation; returns the id of its episode. A rating cannot replace what the server knows.

        Raises:
            UserError: if the conversation is not over, or is none.
        """
        negotiation = talk.agent.replay(talk)
        if negotiation.end is None:
            raise UserError("only a negotiation that is over is stored; go on with it, or leave the table")
        episode = episode_of(negotiation, talk)
        about = {"side": COUNTERPARTY if talk.agent.side == FOCAL else FOCAL, "blind": blind}
        row = episode.row() | {"ratings": json.dumps({**rating, **about}, ensure_ascii=False)}
        table = pa.Table.from_pylist([row], schema=_SCHEMA)
        with updating(self.file):
            if self.file.is_file():
                table = pa.concat_tables([pq.read_table(self.file, schema=_SCHEMA), table])
            content = io.BytesIO()
            pq.write_table(table, content)
            atomic_write(self.file, content.getvalue())
        return episode.episode_id


def episode_of(negotiation: Negotiation, talk: Conversation) -> Episode:
    """The record of a negotiation between a person and an agent, with an id of its own.

    Targets that were given without a scenario become part of the scenario's id.
    """
    arm, scenario = talk.agent.arm, negotiation.scenario
    if scenario.id.endswith("-own"):
        scenario = replace(scenario, id=f"{scenario.id}-{scenario.focal_target:g}-{scenario.counterparty_target:g}")
    if arm:
        negotiation.counterparty = HUMAN
    focal = arm.name if arm else HUMAN
    episode = Episode.of(negotiation, SPLIT, focal, focal)
    return replace(episode, scenario=scenario, episode_id=f"{episode.episode_id}/{secrets.token_hex(4)}")
