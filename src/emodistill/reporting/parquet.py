"""Tables as data: raw values, nothing rounded."""

import io
import json
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emodistill.reporting.table import Column, Table


def frame(table: Table) -> pd.DataFrame:
    """One column each under its key; an interval is three: `<key>`, `<key>_low` and `<key>_high`."""
    columns = [part for column in table.columns for part in _names(column)]
    return pd.DataFrame([_values(table, row) for row in table.rows], columns=columns)


def parquet(table: Table) -> bytes:
    """The same as a Parquet file; title, note and headers are in its metadata."""
    about = {"title": table.title, "note": table.note, "headers": {c.key: c.header for c in table.columns}}
    arrow = pa.Table.from_pandas(frame(table), preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"emodistill": json.dumps(about).encode()})
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer)
    return buffer.getvalue()


def _names(column: Column) -> list[str]:
    return [column.key, f"{column.key}_low", f"{column.key}_high"] if column.kind == "interval" else [column.key]


def _values(table: Table, row: Any) -> list[Any]:
    found: list[Any] = []
    for column in table.columns:
        value = row.get(column.key)
        found += list(value or (None, None, None)) if column.kind == "interval" else [value]
    return found
