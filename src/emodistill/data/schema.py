"""An episode, and the Parquet files of episodes: one row each, with a checked schema."""

import contextlib
import io
import json
import math
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from emodistill.errors import UserError
from emodistill.files import atomic_write
from emodistill.lazy import lazy_attributes, loading
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Act, End, Negotiation, Side, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.splits import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
QUESTIONS, SCALE = ("satisfaction", "liking"), (1, 5)  # what people are asked about an agent, and least and most
HUMAN = "human"  # who a person is, as focal agent or counterparty
ROWS = 1000  # rows of a file that are Python values at a time: a row takes ten times as much memory as its episode
ROUNDED = 1e-4  # how far a stated utility may lie from that of its deal
__getattr__ = lazy_attributes("emodistill.data", {"arrow_schema": ("SCHEMA",)})  # Arrow, for who reads or writes files


_TURN_COLUMNS = {field.name: "slips" if field.name == "role_violations" else field.name for field in fields(Turn)}


def _turn_row(turn: Turn) -> dict[str, Any]:
    """The columns of a turn: its fields, but for `role_violations`, whose column is `slips`."""
    return {column: getattr(turn, name) for name, column in _TURN_COLUMNS.items()}


def _turn(row: dict[str, Any]) -> Turn:
    """The inverse of `_turn_row`."""
    fields = {name: value for name, value in row.items() if name != "slips"}
    for name in ("speaker", "emotion", "act"):  # a few words in all: each is kept once
        if fields.get(name) is not None:
            fields[name] = sys.intern(fields[name])
    fields["offer_appended"] = bool(fields.get("offer_appended"))
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
        """The inverse of `row`.

        Raises:
            UserError: naming the field that is missing, of another type or out of its range.
        """
        _check_fields(row)
        return cls._of(row, tuple(map(_turn, row["turns"])))

    @classmethod
    def _of(cls, row: Mapping[str, Any], turns: tuple[Turn, ...]) -> "Episode":
        """The episode of a row whose fields were checked one by one; checks how they go together."""
        _check_together(row, turns)
        targets = (row["focal_target"], row["counterparty_target"])
        scenario = Scenario(row["scenario_id"], row["domain"], *targets, _context(row["context"]))
        stated, worth = row["utility"], scenario.utility(row["deal_value"])
        if stated is not None and abs(stated - worth) > ROUNDED:
            raise UserError(
                f"utility is {stated:g}, but by targets and deal_value it is {worth:g}; correct one, or leave it null"
            )
        given = (row["behaviour"], row["focal_agent"], row["counterparty"], row["seed"])
        return cls(
            row["episode_id"], row["split"], scenario, *given, turns, row["end"], row["deal_value"], row["fault"]
        )


def write_episodes(episodes: Iterable[Episode], path: Path) -> None:
    """Write a Parquet file, whole or not at all."""
    import pyarrow as pa

    from emodistill.data.arrow_schema import SCHEMA

    write_rows(pa.Table.from_pylist([episode.row() for episode in episodes], schema=SCHEMA), path)


def join_rows(parts: Sequence[tuple[Path, int, int]], order: Sequence[int]) -> "pa.Table":
    """Rows of files that `write_episodes` wrote, sorted; much quicker than decoding and encoding episodes.

    Args:
        parts: file, first row and number of rows.
        order: a sort key for each of these rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from emodistill.data.arrow_schema import SCHEMA

    tables = [pq.read_table(path, schema=SCHEMA).slice(first, count) for path, first, count in parts]
    places = pa.array(sorted(range(len(order)), key=order.__getitem__))
    return pa.concat_tables(tables).take(places).combine_chunks()


def write_rows(table: "pa.Table", path: Path) -> None:
    """Write a table of episodes, whole or not at all."""
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content.getvalue())


def read_episodes(path: Path) -> list[Episode]:
    """Read and check a corpus.

    Raises:
        UserError: if the file is missing, is no Parquet of this schema, is empty, or a row of it is malformed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from emodistill.data.arrow_schema import SCHEMA

    remedy = "delete its folder to have it built again, or point data.corpus.path at a corpus"
    if not path.is_file():
        raise UserError(f"the corpus {path} does not exist; {remedy}")
    try:
        footer = pq.read_metadata(path)
        columns = footer.schema.to_arrow_schema().names
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}); {remedy}") from error
    missing = [name for name in SCHEMA.names if name not in columns]
    if missing:
        raise UserError(f"{path} is not an episode corpus: the columns {', '.join(missing)} are missing; {remedy}")
    if footer.num_rows == 0:
        raise UserError(f"the corpus {path} is empty; {remedy}")
    try:
        with loading(), contextlib.closing(_parts(path, remedy)) as parts:  # a refused row leaves no copy behind
            return [episode for number, part in enumerate(parts) for episode in _episodes(part, path, number * ROWS)]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} holds words that are not UTF-8; {remedy}") from error


def read_ratings(path: Path) -> list[dict[str, Any]]:
    """What people answered about each episode of a file of `serve.py`, in its order."""
    import pyarrow.parquet as pq

    return [json.loads(row) for row in pq.read_table(path, columns=["ratings"])["ratings"].to_pylist()]


def _parts(path: Path, remedy: str) -> "Generator[pa.Table, None, None]":
    """`ROWS` rows at a time, read through `datasets`, which keeps an Arrow copy of a file: ours is gone at the end.

    The copy is mapped, so no more than these rows are there as Python values at a time.
    """
    import datasets  # two seconds, which nobody should pay who reads no corpus
    import pyarrow as pa

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="emodistill-") as copy:
        link = Path(copy, "episodes.parquet")  # the name is taken for a pattern, and for an address where it has "::"
        link.symlink_to(path.resolve())
        try:
            table = datasets.Dataset.from_parquet(str(link), cache_dir=copy).with_format("arrow")
        except datasets.exceptions.DatasetGenerationError as error:
            why = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{path} is not a readable Parquet file ({why}); {remedy}") from error
        try:
            for first in range(0, len(table), ROWS):
                yield table[first : first + ROWS]
        finally:
            del table
            pa.default_memory_pool().release_unused()  # a quarter of what a corpus takes would stay with Arrow


def _episodes(part: "pa.Table", path: Path, first: int) -> list[Episode]:
    """The episodes of some rows, of which `first` is the number of the first.

    Where every value of every column is as it should be, the rows are made column by column; else row by row, which
    finds and names what is wrong.
    """
    turns = _sound_turns(part)
    if turns is None:
        return [_checked(row, path, first + i, Episode.from_row) for i, row in enumerate(part.to_pylist())]
    rows = part.drop_columns(["turns"]).to_pylist()
    return [
        _checked(row, path, first + i, partial(Episode._of, turns=own))
        for i, (row, own) in enumerate(zip(rows, turns, strict=True))
    ]


def _sound_turns(part: "pa.Table") -> list[tuple[Turn, ...]] | None:
    """The turns of each row; None where a column is not of our types, or a value is not what its field must hold."""
    import pyarrow as pa

    from emodistill.data.arrow_schema import SCHEMA, TURN

    if any(part.schema.field(name).type != SCHEMA.field(name).type for name in SCHEMA.names if name != "turns"):
        return None
    lists = part.column("turns").combine_chunks()
    if not pa.types.is_list(lists.type) or not pa.types.is_struct(lists.type.value_type):
        return None
    if {field.name: field.type for field in lists.type.value_type} != {field.name: field.type for field in TURN}:
        return None
    try:
        part.validate(full=True)
    except pa.ArrowInvalid:  # words that are not UTF-8
        return None
    flat = lists.flatten()
    if lists.null_count or flat.null_count:
        return None
    for name, check in _FIELDS.items():
        if name != "turns" and not all(map(check.holds, part.column(name).unique().to_pylist())):
            return None
    columns = {name: _sound_values(flat.field(name), check) for name, check in _TURN_FIELDS.items()}
    if any(values is None for values in columns.values()):
        return None
    columns["offer_appended"] = map(bool, columns["offer_appended"])
    columns["slips"] = (tuple(slips or ()) for slips in columns["slips"])
    names = ("slips" if field.name == "role_violations" else field.name for field in fields(Turn))
    turns = map(Turn, *(columns[name] for name in names))
    return [tuple(islice(turns, count)) for count in lists.value_lengths().to_pylist()]


def _sound_values(column: "pa.Array", check: "_Check") -> Any:
    """The values of a column, equal ones as one object; None where one of them is not what it must be."""
    import pyarrow as pa

    if pa.types.is_list(column.type):
        values = column.to_pylist() if len(column.flatten()) else [None] * len(column)
        return values if all(map(check.holds, values)) else None
    encoded = column.dictionary_encode(null_encoding="encode")
    distinct = [sys.intern(value) if isinstance(value, str) else value for value in encoded.dictionary.to_pylist()]
    if not all(map(check.holds, distinct)):
        return None
    return [distinct[place] for place in encoded.indices.to_numpy().tolist()]


class _Check(NamedTuple):
    """What a field must hold, in words and as a test."""

    wanted: str
    holds: Callable[[Any], bool]

    def __or__(self, other: "_Check") -> "_Check":
        return _Check(f"{self.wanted} or {other.wanted}", lambda value: self.holds(value) or other.holds(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(names: Sequence[str]) -> _Check:
    return _Check(f"one of {', '.join(names)}", lambda value: value in names)


_NULL = _Check("null", lambda value: value is None)
_TEXT = _Check("a text", lambda value: isinstance(value, str))
_NAME = _Check("a text that is not empty", lambda value: isinstance(value, str) and value != "")
_NUMBER = _Check("a finite number", _is_number)
_WHOLE = _Check("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_PROBABILITY = _Check("a probability above 0 and at most 1", lambda value: _is_number(value) and 0 < value <= 1)
_FIELDS = {
    **dict.fromkeys(("episode_id", "domain", "scenario_id", "behaviour", "focal_agent"), _NAME),
    **dict.fromkeys(("counterparty", "unit", "context"), _TEXT),
    **dict.fromkeys(("focal_target", "counterparty_target"), _NUMBER),
    "split": _one_of(SPLITS),
    "seed": _WHOLE,
    "turns": _Check("a list of turns", lambda value: isinstance(value, list)),
    "end": _one_of(get_args(End)),
    **dict.fromkeys(("deal_value", "utility"), _NUMBER | _NULL),
    "fault": _TEXT | _NULL,
}
_TURN_FIELDS = {
    "round": _Check("a whole number from 0 on", lambda value: _WHOLE.holds(value) and value >= 0),
    "speaker": _one_of((FOCAL, COUNTERPARTY)),
    "text": _TEXT,
    "emotion": _NAME | _NULL,
    "emotion_prob": _PROBABILITY | _NULL,
    "offer": _NUMBER | _NULL,
    "act": _one_of(get_args(Act)),
    "offer_appended": _Check("true or false", lambda value: isinstance(value, bool)) | _NULL,
    "slips": _Check("a list of texts", lambda value: isinstance(value, list | tuple) and all(map(_TEXT.holds, value)))
    | _NULL,
}
_NEEDED = ("round", "speaker", "text")  # of a turn; what else a file leaves out is as in `Turn`


def _check_fields(row: Mapping[str, Any]) -> None:
    """Refuse a row of which a field does not hold what it should."""
    for name, check in _FIELDS.items():
        if not check.holds(row[name]):
            raise UserError(f"{name} is {_shown(row[name])}, not {check.wanted}")
    for place, turn in enumerate(row["turns"]):
        _check_turn(turn, place)


def _check_together(row: Mapping[str, Any], turns: Sequence[Turn]) -> None:
    """Refuse a row whose fields do not go together."""
    unit = load_domain(row["domain"]).unit
    if row["unit"] != unit:
        raise UserError(f"unit is {_shown(row['unit'])}, but the domain {row['domain']} counts in {unit}")
    if (row["end"] == "deal") != (row["deal_value"] is not None):
        raise UserError(f"end is '{row['end']}', but deal_value is {_shown(row['deal_value'])}; only a deal has one")
    if not turns and row["end"] != "invalid":
        raise UserError(f"turns is empty, but end is '{row['end']}'")
    _check_order(turns)


def _check_turn(turn: Any, place: int) -> None:
    if not isinstance(turn, dict):
        raise UserError(f"turns[{place}] is {_shown(turn)}, not a turn")
    if unknown := [name for name in turn if name not in _TURN_FIELDS]:
        raise UserError(f"turns[{place}] has an unknown field {unknown[0]}")
    for name, check in _TURN_FIELDS.items():
        if name not in turn and name not in _NEEDED:
            continue
        if not check.holds(value := turn.get(name)):
            known = name not in ("round", "speaker")
            where = f"the {turn['speaker']}'s {name} in round {turn['round']}" if known else f"turns[{place}].{name}"
            raise UserError(f"{where} is {_shown(value)}, not {check.wanted}")


def _check_order(turns: Sequence[Turn]) -> None:
    """A round is one turn of the focal side, then one of the counterparty, whose words before the first are round 0."""
    before: tuple[int, Side] = (-1, COUNTERPARTY)
    for place, turn in enumerate(turns):
        speaker, number = turn.speaker, turn.round
        if (number, speaker == COUNTERPARTY) <= (before[0], before[1] == COUNTERPARTY) or (
            speaker == FOCAL and number < 1
        ):
            follows = f"after the {before[1]} in round {before[0]}" if place else "first"
            raise UserError(
                f"turns[{place}] is out of order: the {speaker} speaks in round {number} {follows}; a round is one "
                "turn of the focal side, then one of the counterparty, and round 0 the counterparty's opening"
            )
        before = (number, speaker)


@lru_cache(maxsize=10_000)  # the episodes of a scenario share one
def _context(text: str) -> dict[str, str]:
    try:
        context = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"context is not JSON ({error})") from error
    if not isinstance(context, dict):
        raise UserError(f"context is {_shown(context)}, not an object of texts")
    for name, value in context.items():
        if not isinstance(value, str):
            raise UserError(f"context['{name}'] is {_shown(value)}, not a text")
    return context


def _shown(value: Any) -> str:
    """A value in an error message, cut where it is long."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _checked(row: dict[str, Any], path: Path, number: int, make: Callable[[dict[str, Any]], Episode]) -> Episode:
    """The episode that `make` gives for a row; what it refuses is named with file and row."""
    if row["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{path}, row {number}: schema version {row['schema_version']}, this code reads {SCHEMA_VERSION}"
        )
    try:
        return make(row)
    except UserError as error:
        raise UserError(f"{path}, row {number} ({row['episode_id']}): {error}; remove the row or mend it") from error
