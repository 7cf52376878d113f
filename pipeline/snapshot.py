"""The committed rows at a moment, cheap to take again: a file is read once, until it changes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import (
    MAX_LISTINGS,
    FileProblem,
    UnreadableFileError,
    list_files,
    open_parquet,
    select_winners,
)
from pipeline.distinct import count_distinct_texts
from pipeline.rundir import RunDirectory
from pipeline.schema import carried_columns
from pipeline.side_by_side import do_side_by_side
from pipeline.storage import AnyPath, ObjectPath
from pipeline.tail import no_rows, read_row_columns

KEYS = ("task_id", "category", "attempts")

Stamp = tuple[int, int]


class RowReader:
    """Some columns of the committed rows of a run, again and again.

    Args:
        run: The run directory.
        columns: Names of fixed columns.
    """

    def __init__(self, run: RunDirectory, columns: Sequence[str]) -> None:
        self._run = run
        self._columns = tuple(dict.fromkeys([*KEYS, *columns]))
        self._known: dict[AnyPath, tuple[Stamp, pa.Table | FileProblem]] = {}

    def read(self) -> tuple[pa.Table, list[FileProblem]]:
        """The rows that count, each task once, and the files that could not be read.

        From `metrics.parquet` where it is of the very rows that are committed. Safe while rows are
        committed and while a finalize is going on. Rows are sorted by (category, task_id).
        """
        for _ in range(MAX_LISTINGS):
            files = list_files(self._run)
            rows, vanished = self._read_finalized(files), False
            if rows is None:
                rows, vanished = self._gather(files)
            if not vanished:
                break
        self._known = {path: self._known[path] for path in files if path in self._known}
        problems = [known for _, known in self._known.values() if isinstance(known, FileProblem)]
        return _select_winners(rows), problems

    def _read_finalized(self, files: Sequence[AnyPath]) -> pa.Table | None:
        """The rows of `metrics.parquet`; None where the other files say more, or other things."""
        if not files or any(path.parent != self._run.textures for path in files):
            return None
        try:
            rows = read_row_columns(self._run.metrics, self._columns)
            stored = sum(do_side_by_side(_count_rows, files))
        except (OSError, UnreadableFileError):
            return None
        return rows if stored == len(rows) else None

    def _gather(self, files: Sequence[AnyPath]) -> tuple[pa.Table, bool]:
        """All rows of some files, superseded ones too, and whether one of the files has gone."""
        found = list(do_side_by_side(self._read_file, files))
        tables = [item for item in found if isinstance(item, pa.Table)]
        return pa.concat_tables([no_rows(self._columns), *tables]), any(
            item is None for item in found
        )

    def _read_file(self, path: AnyPath) -> pa.Table | FileProblem | None:
        """The rows of a file, or what is wrong with it; None if it has gone."""
        try:
            return self._read_if_changed(path)
        except FileNotFoundError:
            return None

    def _read_if_changed(self, path: AnyPath) -> pa.Table | FileProblem:
        stamp = _stamp(path)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            try:
                known = (stamp, read_row_columns(path, self._columns))
            except UnreadableFileError as error:
                known = (stamp, error.problem)
            self._known[path] = known
        return known[1]


def _stamp(path: AnyPath) -> Stamp:
    """By which a change is seen; a store has one content only under a name of rows."""
    if isinstance(path, ObjectPath):
        return 0, 0
    status = path.stat(follow_symlinks=False)
    return status.st_mtime_ns, status.st_size


def read_each_file_once(
    run: RunDirectory, columns: Sequence[str]
) -> tuple[pa.Table, list[FileProblem]]:
    """Some columns of the committed rows, each task once, and the files that could not be read.

    The same rows as `read_committed` gives, in another order: many files are quickly read so, and
    several at once, which is what an object store needs.

    Args:
        run: The run directory.
        columns: Names of fixed columns.
    """
    names = list(dict.fromkeys([*KEYS, *columns]))

    def read(path: AnyPath) -> pa.Table | FileProblem:
        try:
            with open_parquet(path) as file:
                carried_columns(file.schema_arrow)
                return file.read(names, use_threads=False).replace_schema_metadata()
        except UnreadableFileError as error:
            return error.problem

    for listings in range(1, MAX_LISTINGS + 1):
        try:
            found = list(do_side_by_side(read, list_files(run)))
            break
        except FileNotFoundError:
            # A finalize has moved it on meanwhile.
            if listings == MAX_LISTINGS:
                raise
    tables = [table for table in found if isinstance(table, pa.Table)]
    rows = pa.concat_tables([no_rows(tuple(names)), *tables])
    if count_distinct_texts(rows["task_id"]) < len(rows):
        rows = _select_winners(rows)
    return rows.select(columns), [item for item in found if isinstance(item, FileProblem)]


def load_task_columns(run: RunDirectory, columns: Sequence[str]) -> pa.Table:
    """Text columns of `tasks.parquet`: all tasks of the manifest, in its order.

    Raises:
        UnreadableFileError: It is missing, cannot be read, or lacks a column.
    """
    try:
        with open_parquet(run.tasks) as file:
            table = file.read(list(columns))
            return table.cast(pa.schema([(name, pa.string()) for name in columns]))
    except (FileNotFoundError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "missing" if missing else f"no list of tasks: {error}"
        raise UnreadableFileError(FileProblem(run.tasks, reason)) from error


def _count_rows(path: AnyPath) -> int:
    with open_parquet(path) as file:
        count: int = file.metadata.num_rows
        return count


def _select_winners(rows: pa.Table) -> pa.Table:
    """Of rows in the order of their files, the one that counts of each task."""
    one = pa.scalar(1, pa.int64())
    numbers = pc.cumulative_sum(pa.repeat(one, len(rows)))
    located = rows.append_column("file", pa.repeat(one, len(rows))).append_column("row", numbers)
    return select_winners(located).drop(["file", "row"])
