"""Which tasks are left to do: an anti-join of the manifest's tasks against the committed rows.

Of the tasks only their ids are in memory; all else goes through batch by batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.columns import FLAGGED, RETRYABLE
from pipeline.committed import open_parquet
from pipeline.distinct import count_distinct_texts
from pipeline.rundir import RunDirectory
from pipeline.table_stream import (
    Columns,
    TableStream,
    stream_parquet,
    stream_table,
    write_stream_atomic,
)
from pipeline.tries import next_seed

KEYS = ("task_id", "status", "attempts", "seed", "accepted", "tries")
"""Columns of the committed rows that tell what is left to do."""
ATTEMPTS = pa.field("attempts", pa.int32())
"""Column that pending tasks have beside those of a task."""


@dataclass(frozen=True, kw_only=True)
class Pending:
    """Which tasks are left.

    Attributes:
        left: Of every task in their order, whether it is.
        row: Number of its committed row; -1 without one.
        attempts, seed: Of the committed rows, and of none at the end: 0, and -1 for the task's own.
        flagged: Of the same, whether the task is to get another seed.
    """

    left: NDArray[np.bool_]
    row: NDArray[np.int32]
    attempts: NDArray[np.int32]
    seed: NDArray[np.int64]
    flagged: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(np.count_nonzero(self.left))

    def select(self, tasks: TableStream) -> TableStream:
        """The tasks left, in their order, with a column `attempts` (int32), as of their rows.

        It is 0 for a new task. A flagged one has another seed: with its own it would be the same
        again. All others that are done again have the seed of their row.

        Args:
            tasks: All tasks, those that `find_pending` was given the ids of, with `seed`.
        """

        def read(columns: Columns) -> Iterator[pa.Table]:
            for batch in self._select(tasks):
                yield batch if columns is None else batch.select(columns)

        return TableStream(tasks.schema.remove_metadata().append(ATTEMPTS), read)

    def _select(self, tasks: Iterable[pa.Table]) -> Iterator[pa.Table]:
        start = 0
        for batch in tasks:
            here = slice(start, start + len(batch))
            start += len(batch)
            left, row = self.left[here], self.row[here][self.left[here]]
            if len(row):
                yield self._with_progress(batch.filter(pa.array(left)), row)

    def _with_progress(self, tasks: pa.Table, row: NDArray[np.int32]) -> pa.Table:
        """The tasks with the attempts and seeds of their rows, or new seeds."""
        attempts = self.attempts[row]
        stored, place = self.seed[row], tasks.schema.get_field_index("seed")
        seeds = np.where(stored >= 0, stored, tasks["seed"].to_numpy())
        for i in np.flatnonzero(self.flagged[row]):
            values = {"task_id": tasks["task_id"][i].as_py(), "attempts": int(attempts[i])}
            seeds[i] = next_seed({**values, "seed": int(seeds[i])})
        tasks = tasks.set_column(place, tasks.schema.field(place), pa.array(seeds, pa.int64()))
        return tasks.append_column(ATTEMPTS, pa.array(attempts)).replace_schema_metadata()


def find_pending(
    task_ids: pa.ChunkedArray,
    committed: pa.Table,
    retry: Collection[str] = (),
    *,
    retry_flagged: int = 0,
) -> Pending:
    """Which tasks are left to do.

    Args:
        task_ids: Of all tasks of the manifest, each once.
        committed: The columns KEYS of the committed rows, each task once.
        retry: Statuses of committed rows whose tasks are done again; `flagged` stands for the
            textures that are not accepted.
        retry_flagged: New seeds for each of these textures, those that it had already included.

    Raises:
        ValueError: A task has no id or comes twice, or `retry` has an unknown status.
    """
    unknown = sorted(set(retry) - set(RETRYABLE))
    if unknown:
        raise ValueError(f"retry: got {unknown}, expected some of {', '.join(RETRYABLE)}")
    _require_distinct(task_ids)
    wanted = pa.scalar(True) if FLAGGED in retry else _has_seeds_left(committed, retry_flagged)
    flagged = pc.and_(_is_flagged(committed), wanted)
    named = pc.is_in(committed["status"], pa.array(sorted(retry), pa.string()))
    again = _with_none(pc.or_(named, flagged), True)
    row = pc.fill_null(pc.index_in(task_ids, committed["task_id"]), -1).to_numpy()
    return Pending(
        left=again[row],
        row=row,
        attempts=_with_none(committed["attempts"].cast(pa.int32()), 0),
        seed=_with_none(committed["seed"], -1),
        flagged=_with_none(flagged, False),
    )


def write_pending(run: RunDirectory, pending: pa.Table | TableStream) -> None:
    """Write `pending.parquet`, whole or not at all; with tasks left, the run is no success."""
    stream = pending if isinstance(pending, TableStream) else stream_table(pending)

    def note(batch: pa.Table) -> pa.Table:
        if len(batch):
            run.success.unlink(missing_ok=True)
        return batch

    write_stream_atomic(run.pending, stream.map(note))


def open_pending(run: RunDirectory) -> TableStream:
    """The tasks that this session began with.

    Raises:
        UnreadableFileError, FileNotFoundError: Somebody has damaged or removed their file.
    """
    return stream_parquet(partial(open_parquet, run.pending))


def _require_distinct(task_ids: pa.ChunkedArray) -> None:
    if task_ids.null_count or count_distinct_texts(task_ids) < len(task_ids):
        counts = pc.value_counts(task_ids).to_pylist()
        twice = [item["values"] for item in counts if item["counts"] > 1]
        raise ValueError(f"tasks: {task_ids.null_count} without an id, named twice: {twice[:10]}")


def _is_flagged(committed: pa.Table) -> pa.ChunkedArray:
    refused = pc.invert(pc.fill_null(committed["accepted"], True))
    return pc.and_(pc.equal(committed["status"], "ok"), refused)


def _has_seeds_left(committed: pa.Table, retry_flagged: int) -> Any:
    """Whether a texture may be tried again; its first seed was no retry."""
    if not retry_flagged:
        return pa.scalar(False)
    tries = pc.fill_null(pc.list_value_length(committed["tries"]), 1)
    return pc.less_equal(tries, retry_flagged)


def _with_none(column: pa.ChunkedArray, none: Any) -> NDArray[Any]:
    """The values of a column, `none` where they are null and at the end, where -1 leads."""
    values = column.fill_null(none).to_numpy()
    return np.append(values, np.array(none, values.dtype))
