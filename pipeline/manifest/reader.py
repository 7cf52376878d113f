"""The rows of a manifest's file, batch by batch, and the numbers that they are reported by."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.manifest.problems import RowNumbers
from pipeline.table_stream import Columns, read_parquet_batches

CSV_BLOCK_BYTES = 2**22
"""Read at once; no row may be longer."""


class ManifestReader:
    """Reads a file of rows, as often as asked.

    Args:
        path: the file.
        file_format: of it.

    Attributes:
        ragged: what is wrong with rows that were left out when they were last read, by number.
    """

    def __init__(self, path: Path, file_format: Literal["csv", "parquet"]) -> None:
        self.path = path
        self.format = file_format
        self.ragged: dict[int, str] = {}

    def stamp(self) -> tuple[int, int]:
        """Time and size of the file, by which a change is seen."""
        status = self.path.stat()
        return status.st_mtime_ns, status.st_size

    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        if self.format == "csv":
            _require_utf8(self.path)
            return pa.schema([(name, pa.string()) for name in self._read_csv_names()])
        with pa.parquet.ParquetFile(self.path) as file:
            return file.schema_arrow.remove_metadata()

    def read(self, columns: Columns = None) -> Iterator[pa.Table]:
        """All rows, or some columns of them, in batches of bounded length."""
        self.ragged = {}
        if self.format == "csv":
            yield from self._read_csv(columns)
            return
        with pa.parquet.ParquetFile(self.path) as file:
            for batch in read_parquet_batches(file, columns):
                batch.validate(full=True)
                yield batch

    def number_rows(self, start: int, count: int) -> RowNumbers:
        """The numbers of `count` rows from position `start`; those left out have numbers, too."""
        positions = np.arange(start + 1, start + count + 1)
        left_out = np.array(sorted(self.ragged), np.int64)
        before = left_out - np.arange(len(left_out))
        return positions + np.searchsorted(before, positions, "right")

    def number_row(self, position: int) -> int:
        """The number of the row at a position."""
        return int(self.number_rows(position, 1)[0])

    def describe_ragged(self) -> Iterator[str]:
        """A line for each row that was left out."""
        return (f"row {number}: {self.ragged[number]}" for number in sorted(self.ragged))

    def _read_csv_names(self) -> list[str]:
        with pa.csv.open_csv(self.path, parse_options=self._parsing()) as header:
            names: list[str] = header.schema.names
        return names

    def _read_csv(self, columns: Columns) -> Iterator[pa.Table]:
        names = self._read_csv_names()
        self.ragged = {}
        converting = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
        )
        # Arrow counts no rows when it reads with threads.
        reading = pa.csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES)
        with pa.csv.open_csv(
            self.path,
            read_options=reading,
            parse_options=self._parsing(),
            convert_options=converting,
        ) as batches:
            for batch in batches:
                yield pa.Table.from_batches([batch])

    def _parsing(self) -> Any:
        return pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=self._leave_out)

    def _leave_out(self, row: Any) -> str:
        # Arrow counts the header as row 1.
        if row.number is not None:
            fields = f"{row.actual_columns} fields, expected {row.expected_columns}"
            self.ragged[row.number - 1] = fields
        return "skip"


def _require_utf8(path: Path) -> None:
    """Arrow passes a row left out to Python as text, and drops the error if it is none."""
    with path.open(encoding="utf-8", newline="") as file:
        while file.read(2**20):
            pass
