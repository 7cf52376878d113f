"""Tables that are too long to hold: read batch by batch, as often as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.rundir import atomic_path
from pipeline.storage import AnyPath

BATCH_ROWS = 65_536
"""Rows of a batch: Arrow's text arrays hold 2 GiB each, and a batch keeps far from that."""

Columns = Sequence[str] | None


@dataclass(frozen=True)
class TableStream:
    """A table that is made or read anew, batch by batch, by everyone who asks for it.

    Args:
        schema: Of every batch.
        open: Gives the batches of some columns, in this order; of all for None.
    """

    schema: pa.Schema
    open: Callable[[Columns], Iterator[pa.Table]]

    def __iter__(self) -> Iterator[pa.Table]:
        return self.open(None)

    def read(self, columns: Columns = None) -> pa.Table:
        """The whole table, or some of its columns, in memory."""
        names = self.schema.names if columns is None else columns
        empty = pa.schema([self.schema.field(name) for name in names]).empty_table()
        return pa.concat_tables([empty, *self.open(columns)])

    def first(self, rows: int | None) -> Iterator[pa.Table]:
        """Batches with the first rows only; with all for None."""
        left = rows
        for batch in self:
            yield batch.slice(0, left)
            if left is not None:
                left -= len(batch)
                if left <= 0:
                    return

    def cut(self, rows: int) -> Iterator[pa.Table]:
        """Pieces of at most so many rows; a piece ends with its batch."""
        for batch in self:
            for start in range(0, len(batch), rows):
                yield batch.slice(start, rows)

    def map(self, change: Callable[[pa.Table], pa.Table]) -> TableStream:
        """What a function makes of each batch; columns are chosen after it."""

        def read(columns: Columns) -> Iterator[pa.Table]:
            for batch in self:
                changed = change(batch)
                yield changed if columns is None else changed.select(columns)

        return TableStream(change(self.schema.empty_table()).schema, read)

    def holds(self, other: Iterable[pa.Table]) -> bool:
        """Whether these are the same rows, however they are cut into batches."""
        mine, rest = iter(self), self.schema.empty_table()
        for batch in other:
            while len(rest) < len(batch):
                more = next(mine, None)
                if more is None:
                    return False
                rest = pa.concat_tables([rest, more])
            if not rest.slice(0, len(batch)).equals(batch):
                return False
            rest = rest.slice(len(batch))
        return not len(rest) and not any(len(batch) for batch in mine)


def stream_table(table: pa.Table) -> TableStream:
    """A table in memory as a stream."""

    def read(columns: Columns) -> Iterator[pa.Table]:
        chosen = table if columns is None else table.select(columns)
        for start in range(0, len(table), BATCH_ROWS):
            yield chosen.slice(start, BATCH_ROWS)

    return TableStream(table.schema, read)


def stream_parquet(opened: Callable[[], AbstractContextManager[pq.ParquetFile]]) -> TableStream:
    """A Parquet file as a stream.

    Args:
        opened: Opens it; what it raises is raised here, and later where the file breaks further in.
    """

    def read(columns: Columns) -> Iterator[pa.Table]:
        with opened() as file:
            yield from read_parquet_batches(file, columns)

    with opened() as file:
        schema = file.schema_arrow.remove_metadata()
    return TableStream(schema, read)


def read_parquet_batches(file: pq.ParquetFile, columns: Columns = None) -> Iterator[pa.Table]:
    """The rows of an open Parquet file; its row groups may be of any size."""
    names = None if columns is None else list(columns)
    for batch in file.iter_batches(BATCH_ROWS, columns=names):
        yield pa.Table.from_batches([batch]).replace_schema_metadata()


def write_stream_atomic(path: AnyPath, table: pa.Table | TableStream) -> None:
    """Write a Parquet file, whole or not at all, a batch at a time."""
    stream = table if isinstance(table, TableStream) else stream_table(table)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary, stream.schema, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for batch in stream:
            writer.write_table(batch)
