"""A ledger as a Parquet file, every column of it, for who wants to compute with it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emodistill.errors import UserError
from emodistill.judges.ledger_format import COLUMNS
from emodistill.judges.ledger_rows import Ledger

_NUMBERS = {"prompt_tokens": pa.int64(), "completion_tokens": pa.int64(), "attempts": pa.int64()}
_NUMBERS |= {"score": pa.float64(), "cost": pa.float64(), "latency_s": pa.float64(), "held": pa.float64()}
_NUMBERS |= {"judged_at": pa.timestamp("us", tz="UTC")}
SCHEMA = pa.schema([(name, _NUMBERS.get(name, pa.string())) for name in COLUMNS])
_AT_ONCE = 10_000


def export(ledger: Ledger, path: Path, judge: str | None = None) -> int:
    """Write all judgements, or those of one judge, in the order of their keys; returns how many.

    Raises:
        UserError: if the file is there already or cannot be written. Nothing half-written is left.
    """
    if path.exists():
        raise UserError(f"{path} is there already; delete it or export to another path")
    partial = path.with_name(path.name + ".partial")
    try:
        with pq.ParquetWriter(partial, SCHEMA) as writer, ledger.explained():
            count = _copy(ledger, writer, judge)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}); choose another path or make room") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _copy(ledger: Ledger, writer: Any, judge: str | None) -> int:
    query = f"SELECT {', '.join(COLUMNS)} FROM judgements WHERE judge = coalesce(?, judge) ORDER BY key"
    cursor, count = ledger.connection.execute(query, (judge,)), 0
    while rows := cursor.fetchmany(_AT_ONCE):
        writer.write_batch(_batch(rows))
        count += len(rows)
    return count


def _batch(rows: Sequence[tuple[Any, ...]]) -> Any:
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    columns["judged_at"] = tuple(datetime.fromtimestamp(seconds, UTC) for seconds in columns["judged_at"])
    return pa.record_batch([pa.array(columns[one.name], one.type) for one in SCHEMA], schema=SCHEMA)
