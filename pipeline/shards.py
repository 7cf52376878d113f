"""Rows made durable: one Parquet file per flush, whole or not there.

The name of a shard derives from the tasks and attempts in it, so that the same rows, committed
twice, are one file. The PNG column has no dictionary, statistics or compression (PNG is compressed
already, and a dictionary of it makes reading slow); all others have zstd. All pages have checksums,
which readers verify.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.rundir import RunDirectory, atomic_path
from pipeline.schema import SchemaError, carried_columns, rows_to_table
from pipeline.storage import AnyPath

# 32 to 128 read well (an image costs the reading of its row group); 64 PNGs of 256 px are 8 MB.
ROW_GROUP_ROWS = 64
# Share of `flush_seconds` that is left for the write itself.
WRITE_MARGIN = 0.2
# A disk that is full now is full in a millisecond: others get at the buffer in between.
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


def compute_rows_digest(rows: Iterable[tuple[str, int]]) -> str:
    """A name for a set of (task id, attempts), whatever its order; 16 hex digits."""
    text = json.dumps(sorted(rows))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_row_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer of output rows; `schema` from `row_schema`."""
    plain = {"image.bytes", "image.path", "layout"}
    coded = [name for name in _leaf_paths(schema) if name not in plain]
    return pq.ParquetWriter(
        path,
        schema,
        compression=dict.fromkeys(coded, "zstd") | dict.fromkeys(plain, "none"),
        use_dictionary=coded,
        write_statistics=coded,
        write_page_checksum=True,
    )


def commit_rows(run: RunDirectory, table: pa.Table) -> AnyPath:
    """Write rows as one shard, durable when this returns.

    Args:
        run: The run directory; its `shards` folder exists.
        table: Rows of `row_schema`, each task once, any number from 1.

    Returns:
        The path of the shard, the same for the same tasks and attempts.

    Raises:
        SchemaError: The table is empty, of another schema, or names a task twice.
        OSError: The disk is full, or the like; no file is left.
    """
    carried_columns(table.schema)
    tasks = table["task_id"].to_pylist()
    if not tasks or None in tasks or len(set(tasks)) < len(tasks):
        raise SchemaError(f"a shard needs rows, each of another task; got tasks {tasks}")
    digest = compute_rows_digest(zip(tasks, table["attempts"].to_pylist(), strict=True))
    path = run.shards / f"part-{digest}.parquet"
    with atomic_path(path) as temporary, open_row_writer(temporary, table.schema) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return path


@functools.lru_cache(maxsize=8)
def _leaf_paths(schema: pa.Schema) -> list[str]:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [leaves.column(index).path for index in range(len(leaves.names))]


class ShardWriter:
    """Buffers finished rows and commits them, at most `flush_seconds` after they ended.

    A thread commits when nothing else happens. Where a commit fails, the rows stay in the buffer
    and are tried again; the error is raised in the caller's thread, by the call that flushed or
    else by the next `add`, `flush` or `close`. Safe to use from several threads.

    Args:
        run: The run directory; its `shards` folder exists.
        schema: From `row_schema`.
        rows_per_shard: How many rows make a shard.
        flush_seconds: The longest time that a finished row is in memory only, s.
        on_commit: Called with the ids of the tasks whose rows have become durable, in any thread.
    """

    def __init__(
        self,
        run: RunDirectory,
        schema: pa.Schema,
        *,
        rows_per_shard: int = 32,
        flush_seconds: float = 10.0,
        on_commit: Callable[[list[str]], None] | None = None,
    ) -> None:
        if rows_per_shard < 1 or flush_seconds <= 0:
            got = f"rows_per_shard={rows_per_shard}, flush_seconds={flush_seconds}"
            raise ValueError(f"ShardWriter: got {got}, expected both positive")
        self._run, self._schema = run, schema
        self._rows_per_shard = rows_per_shard
        self._flush_after_s = flush_seconds * (1 - WRITE_MARGIN)
        self._on_commit = on_commit
        self._rows: dict[str, pa.Table] = {}
        self._due_at = 0.0
        self._error: OSError | None = None
        self._closed = False
        self._changed = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._flush_when_due, daemon=True, name="shards")
        self._thread.start()

    def add(self, row: Mapping[str, Any]) -> None:
        """Take over a finished row; one of the same task that is still buffered is replaced.

        Raises:
            SchemaError: The row does not fit the schema; it is not taken.
            OSError: A commit failed; this row and all others are kept and tried again.
            ValueError: The writer is closed.
        """
        table = rows_to_table([row], self._schema)
        with self._changed:
            if self._closed:
                raise ValueError(f"row of task {row['task_id']!r}: the writer is closed")
            if not self._rows:
                self._due_at = time.monotonic() + self._flush_after_s
                self._changed.notify()
            self._rows[row["task_id"]] = table
            if len(self._rows) >= self._rows_per_shard:
                self.flush()
            else:
                self.flush_if_due()
            self._raise_error()

    def flush(self) -> None:
        """Commit the buffered rows now.

        Raises:
            OSError: The commit failed; the rows are kept and tried again.
        """
        with self._changed:
            if not self._rows:
                return
            self._due_at = time.monotonic() + self._flush_after_s
            commit_rows(self._run, pa.concat_tables(self._rows.values()))
            committed = list(self._rows)
            self._rows.clear()
            self._error = None
            if self._on_commit:
                self._on_commit(committed)

    def flush_if_due(self) -> None:
        """Commit the buffered rows if the oldest has waited long enough; raises as `flush`."""
        with self._changed:
            if time.monotonic() >= self._due_at:
                self.flush()

    def close(self) -> None:
        """Commit what is left and end the thread; raises as `flush`, and can be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _flush_when_due(self) -> None:
        """The thread: waits for the first row, then for its time, then commits."""
        with self._changed:
            while not self._closed:
                wait_s = self._due_at - time.monotonic() if self._rows else None
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                try:
                    self.flush()
                except OSError as error:
                    logger.warning("%d finished rows not committed: %s", len(self._rows), error)
                    self._error = error
                    self._due_at = time.monotonic() + max(self._flush_after_s, RETRY_SECONDS)
