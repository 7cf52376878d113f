"""Answers to queries as tables for people, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.rundir import atomic_path
from pipeline.sql import QueryError, Selection
from pipeline.storage import AnyPath
from pipeline.terminal import visible

OutputFormat = Literal["table", "csv", "json", "parquet"]
TABLE_ROWS = 200
"""That a person looks at; the other formats have all of them."""
CELL_CHARACTERS = 80
WIDEST = 10_000
"""Columns of a table that goes to no terminal: none is cut."""


def write_selection(selection: Selection, output: OutputFormat, path: AnyPath | None) -> None:
    """Write the answer of a query to a file, whole or not at all, or to the standard output.

    Args:
        selection: Not yet read.
        output: How; Parquet needs a path.
        path: The file or object, which is replaced.

    Raises:
        QueryError: The query fails, names two columns the same where that cannot be told, or has
            types that Parquet lacks.
        OSError: The disk is full, or the like.
    """
    if output in ("json", "parquet"):
        _require_distinct(selection.schema.names)
    if path is None:
        _write_text(selection, output, Console().file)
    elif output == "parquet":
        with atomic_path(path) as temporary:
            _write_parquet(selection, temporary)
    else:
        with (
            atomic_path(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            _write_text(selection, output, file)


def write_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], file: TextIO | None = None
) -> None:
    """Write a table for people; numbers are aligned right and have six digits."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    shown = [list(row) for row in rows]
    for index, name in enumerate(columns):
        numeric = any(_is_number(row[index]) for row in shown)
        table.add_column(Text(visible(name)), justify="right" if numeric else "left")
    for row in shown:
        table.add_row(*(Text(_cell(value)) for value in row))
    terminal = Console(file=file)
    console = terminal if terminal.is_terminal else Console(file=file, width=WIDEST)
    console.print(table)


def _write_text(selection: Selection, output: OutputFormat, file: Any) -> None:
    if output == "table":
        _write_first_rows(selection, file)
        return
    names = selection.schema.names
    rows = chain.from_iterable(_rows(batch) for batch in selection.batches)
    if output == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(map(_csv_value, row) for row in rows)
    else:
        for row in rows:
            values = dict(zip(names, map(_json_value, row), strict=True))
            file.write(json.dumps(values, allow_nan=False) + "\n")


def _write_first_rows(selection: Selection, file: Any) -> None:
    shown: list[Sequence[Any]] = []
    total = 0
    for batch in selection.batches:
        shown += _rows(batch.slice(0, TABLE_ROWS - len(shown)))
        total += batch.num_rows
    write_table(selection.schema.names, shown, file)
    if total > len(shown):
        file.write(f"{len(shown)} of {total:,} rows; --format csv has them all\n")


def _write_parquet(selection: Selection, path: Path) -> None:
    try:
        with pq.ParquetWriter(
            path, selection.schema, compression="zstd", write_page_checksum=True
        ) as writer:
            for batch in selection.batches:
                # A row group each; `write_batch` would keep them all in memory to make one.
                writer.write_table(pa.Table.from_batches([batch]))
    except pa.ArrowException as error:
        raise QueryError(f"not for Parquet: {error}; cast it") from error


def _require_distinct(names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise QueryError(f"columns {repeated}: named twice, expected AS and another name")


def _rows(batch: pa.RecordBatch) -> Iterable[tuple[Any, ...]]:
    # Of a batch without columns zip would make no rows, but SQL has none such.
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    """A value in a table, on one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = visible(str(_csv_value(value)))
    return text if len(text) <= CELL_CHARACTERS else f"{text[: CELL_CHARACTERS - 3]}..."


def _csv_value(value: Any) -> Any:
    """A value in CSV: truth and nested values as in JSON, null empty, NaN `nan`."""
    if isinstance(value, (bool, list, dict)):
        return json.dumps(_json_value(value))
    return _json_value(value) if isinstance(value, Decimal) or not _is_number(value) else value


def _json_value(value: Any) -> Any:
    """A value that JSON has; NaN and infinities are null, what it lacks is text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
