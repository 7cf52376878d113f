"""Rows as they are committed: what has appeared in `shards/` since the last look."""

from __future__ import annotations

import functools
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.committed import FileProblem, UnreadableFileError, open_parquet
from pipeline.rundir import BEGUN_SUFFIX, RunDirectory
from pipeline.schema import SCHEMA_VERSION, VERSION_KEY, SchemaError, row_schema
from pipeline.shards import compute_rows_digest
from pipeline.side_by_side import do_side_by_side, remove_side_by_side
from pipeline.storage import AnyPath, poll_seconds, sorted_glob


class ShardTail:
    """Reads every shard once, when it has appeared.

    Args:
        run: The run directory; its `shards` folder may be missing.
        columns: Names of fixed columns of a row.
        skip_present: Shards that are there already count as read.

    Attributes:
        problems: The shards that could not be read, in the order in which they were met; they are
            passed over from then on.
    """

    def __init__(
        self, run: RunDirectory, columns: Sequence[str], *, skip_present: bool = False
    ) -> None:
        self._run = run
        self._columns = tuple(columns)
        self._seen = {path.name for path in self._list()} if skip_present else set()
        self.problems: list[FileProblem] = []

    def new_rows(self) -> pa.Table:
        """The rows of the shards that have appeared since the last call; the columns asked for.

        A task that was done twice has two rows. A shard that a finalize removes before it was read
        is passed over. Where a store does not answer, the error comes out, and the next call gives
        what this one would have.
        """
        tables = [no_rows(self._columns)]
        problems: list[FileProblem] = []
        read: set[str] = set()
        new = [path for path in self._list() if path.name not in self._seen]
        for path, found in zip(new, do_side_by_side(self._read, new), strict=True):
            if found is None:
                continue
            if isinstance(found, FileProblem):
                problems.append(found)
            else:
                tables.append(found)
            read.add(path.name)
        self._seen |= read
        self.problems += problems
        return pa.concat_tables(tables)

    def _read(self, path: AnyPath) -> pa.Table | FileProblem | None:
        """The rows of a shard; None if there is no such file any more."""
        try:
            return read_row_columns(path, self._columns)
        except FileNotFoundError:
            return None
        except UnreadableFileError as error:
            return error.problem

    def _list(self) -> list[AnyPath]:
        return sorted_glob(self._run.shards, "*.parquet")


class CommittedTasks:
    """Which tasks have rows, as far as the shards of a run tell; every shard is read once.

    Args:
        run: The run directory.
        skip_present: Shards that are there already are not looked at.
    """

    def __init__(self, run: RunDirectory, *, skip_present: bool = False) -> None:
        self._run = run
        self._tail = ShardTail(run, ["task_id", "attempts"], skip_present=skip_present)
        self._attempts: dict[str, int] = {}
        self._next_look = 0.0

    def without(self, tasks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The tasks that have no row yet beside those that their `attempts` count.

        Args:
            tasks: `task_id`, and as `attempts` how often work on it had been begun before.
        """
        self._read()
        return [
            dict(task)
            for task in tasks
            if self._attempts.get(task["task_id"], 0) <= task["attempts"]
        ]

    def has(self, task_id: str, number: int) -> bool:
        """Whether a task has a row of an attempt, or of a later one, as far as was last seen.

        A listing of an object store is not repeated within some seconds.
        """
        if self._attempts.get(task_id, 0) < number and time.monotonic() >= self._next_look:
            self._read()
            self._next_look = time.monotonic() + poll_seconds(self._run.path)
        return self._attempts.get(task_id, 0) >= number

    def _read(self) -> None:
        for row in self._tail.new_rows().to_pylist():
            known = self._attempts.get(row["task_id"], 0)
            self._attempts[row["task_id"]] = max(known, row["attempts"])


def begin_block(run: RunDirectory, block: Sequence[Mapping[str, Any]]) -> bool:
    """Leave the mark of a block, known by its first task; says whether it was there before.

    Only then, as after a death, has an actor to look for rows and for attempts of others: if it did
    so with every block, each would read what all others write. Were a session's blocks ever cut
    anew, some tasks would be done twice; none is lost. So are those that an actor has ended which
    outlives its driver, if it commits them after the next session has planned.

    Args:
        run: The run directory; its `attempts` folder exists.
        block: `task_id`, and as `attempts` how often work on it had been begun before.

    Raises:
        OSError: The mark cannot be left.
    """
    first = compute_rows_digest((task["task_id"], task["attempts"]) for task in block[:1])
    mark = run.attempts / f"{first}{BEGUN_SUFFIX}"
    if mark.exists():
        return True
    mark.touch()
    return False


def forget_begun_blocks(run: RunDirectory) -> None:
    """Remove the marks of an earlier session, whose rows are known to who plans the next."""
    marks = sorted_glob(run.attempts, f"*{BEGUN_SUFFIX}")
    remove_side_by_side(marks)


def read_row_columns(path: AnyPath, columns: Sequence[str]) -> pa.Table:
    """Some fixed columns of all rows of a file of a run, `metrics.parquet` included.

    Args:
        path: A Parquet file of rows of this schema version.
        columns: Names of fixed columns; none gives a table that only has a length.

    Raises:
        UnreadableFileError: It is no regular file, no Parquet, damaged, or not ours.
        FileNotFoundError: There is no such file (any more).
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableFileError(FileProblem(path, "no regular file"))
    expected = no_rows(tuple(columns)).schema
    with open_parquet(path) as file:
        version = (file.metadata.metadata or {}).get(VERSION_KEY)
        if version != str(SCHEMA_VERSION).encode():
            raise SchemaError(f"schema version: got {version!r}, expected {SCHEMA_VERSION}")
        table = file.read(list(columns), use_threads=False).replace_schema_metadata()
        if table.schema != expected:
            got = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
            raise SchemaError(f"columns: got {got or 'none'}, expected {', '.join(columns)}")
        table.validate(full=True)
    return table


@functools.cache
def no_rows(columns: tuple[str, ...]) -> pa.Table:
    """A table without rows: some fixed columns of a row, with their types."""
    schema = row_schema()
    return pa.schema([schema.field(name) for name in columns]).empty_table()
