"""The committed rows of a run: what is in `shards/` and `textures/`, each task once.

Of several rows of a task the one with the most attempts counts; between equal ones the one
in `textures/`. A file that cannot be read, or holds other rows than ours, is named and passed over.
The image column is read only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.object_store import StorageError
from pipeline.rundir import RunDirectory
from pipeline.schema import PICTURES, SchemaError, carried_columns, row_schema
from pipeline.side_by_side import do_side_by_side
from pipeline.storage import AnyPath, sorted_glob

KEYS = ("task_id", "category", "attempts")
# A reader is overtaken by a finalize at most once per swap; more often means that files vanish.
MAX_LISTINGS = 10

Result = TypeVar("Result")


@dataclass(frozen=True)
class FileProblem:
    """A file of the run directory that holds no readable rows.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    path: AnyPath
    reason: str


class UnreadableFileError(Exception):
    """A file holds no readable rows; `problem` says which and why."""

    def __init__(self, problem: FileProblem) -> None:
        super().__init__(f"{problem.path}: {problem.reason}")
        self.problem = problem


@dataclass(frozen=True)
class Scan:
    """What the files of a run hold.

    Attributes:
        files: The readable files, those of `textures/` first.
        keys: All rows of them, superseded ones too: task_id, category, attempts, `file` (index into
            `files`) and `row` (number in the file).
        winners: Of `keys`, the rows that count, each task once; sorted by (category, task_id).
        schema: The row schema, with the carried columns of all files.
        problems: The files that were passed over.
    """

    files: tuple[AnyPath, ...]
    keys: pa.Table
    winners: pa.Table
    schema: pa.Schema
    problems: tuple[FileProblem, ...]


def read_committed(
    run: RunDirectory, columns: Sequence[str] | None = None
) -> tuple[pa.Table, list[FileProblem]]:
    """The committed rows, each task once, and the files that could not be read.

    Safe while rows are committed and while a finalize is going on.

    Args:
        run: The run directory, which may be empty or missing.
        columns: Names of fixed or carried columns; all of `metrics.parquet` if not given.

    Returns:
        Rows sorted by (category, task_id), and the problems found.

    Raises:
        KeyError: No file has a column of this name.
    """

    def read(scan: Scan) -> tuple[pa.Table, list[FileProblem]]:
        names = columns
        if names is None:
            names = [name for name in scan.schema.names if name not in PICTURES]
        return read_rows(scan, scan.winners, names), list(scan.problems)

    return read_from_scan(run, read)


def read_from_scan(run: RunDirectory, read: Callable[[Scan], Result]) -> Result:
    """What `read` makes of the committed rows; it is called again where files move or break.

    Args:
        run: The run directory.
        read: Reads with `read_rows` and changes nothing.
    """
    damaged: list[FileProblem] = []
    vanished = 0
    while True:
        try:
            return read(scan_committed(run, damaged))
        except UnreadableFileError as error:
            damaged.append(error.problem)
        except FileNotFoundError:
            vanished += 1
            if vanished == MAX_LISTINGS:
                raise


def scan_committed(run: RunDirectory, damaged: Sequence[FileProblem] = ()) -> Scan:
    """Which rows the files of a run hold, and which of them count.

    Args:
        run: The run directory.
        damaged: Files to pass over, known to be unreadable further in.

    Raises:
        FileNotFoundError: A file was moved on by a finalize meanwhile; scan again.
    """
    files: list[AnyPath] = []
    tables: list[pa.Table] = []
    problems = list(damaged)
    carried = pa.schema([])
    skipped = {problem.path for problem in damaged}
    listed = [path for path in list_files(run) if path not in skipped]
    for path, found in zip(listed, do_side_by_side(_read_keys, listed), strict=True):
        if isinstance(found, FileProblem):
            problems.append(found)
            continue
        keys, columns = found
        carried = pa.unify_schemas([carried, columns], promote_options="permissive")
        tables.append(_located(keys, len(files)))
        files.append(path)
    fields = [row_schema().field(name) for name in KEYS]
    fields += [pa.field("file", pa.int32()), pa.field("row", pa.int64())]
    keys = pa.concat_tables([pa.schema(fields).empty_table(), *tables])
    winners = select_winners(keys)
    return Scan(tuple(files), keys, winners, row_schema(carried), tuple(problems))


def _read_keys(path: AnyPath) -> tuple[pa.Table, pa.Schema] | FileProblem:
    """Keys of all rows of a file, and its carried columns."""
    try:
        with open_parquet(path) as file:
            keys = file.read(list(KEYS), use_threads=False).replace_schema_metadata()
            return keys, carried_columns(file.schema_arrow)
    except UnreadableFileError as error:
        return error.problem


@contextmanager
def open_parquet(path: AnyPath, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read from, and nothing else, in the block.

    The checksums of the pages that are read are verified; files without any are read too.

    Args:
        path: The file.
        footer: What its footer says, if it has been read before.

    Raises:
        UnreadableFileError: What is read is no Parquet, damaged, not ours, or a link to nothing.
        FileNotFoundError: There is no such file (any more).
        StorageError: An object store does not give it, which says nothing about the file.
    """
    local = isinstance(path, Path)
    try:
        with (
            nullcontext(path) if isinstance(path, Path) else path.open() as source,
            # Of an object, columns that lie side by side are one request.
            pq.ParquetFile(
                source, metadata=footer, page_checksum_verification=True, pre_buffer=not local
            ) as file,
        ):
            yield file
    except StorageError:
        raise
    except (pa.ArrowException, OSError, SchemaError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UnreadableFileError(FileProblem(path, reason)) from error


def list_files(run: RunDirectory) -> list[AnyPath]:
    """The Parquet files that may hold committed rows, those of `textures/` first.

    Shards are listed before textures, which rows move to, and all of it again until nothing has
    changed, so that no row is missed while it moves.
    """
    listing: list[AnyPath] | None = None
    for _ in range(MAX_LISTINGS):
        previous = listing
        shards = sorted_glob(run.shards, "*.parquet")
        textures = sorted_glob(run.textures, "*.parquet")
        replaced = [path for folder in run.replaced() for path in sorted_glob(folder, "*.parquet")]
        listing = [*textures, *shards, *replaced]
        if listing == previous:
            break
    return listing or []


def select_winners(keys: pa.Table) -> pa.Table:
    """Of rows located as `Scan.keys` says, the one that counts of each task.

    Sorted by (category, task_id).
    """
    order = [("task_id", "ascending"), ("attempts", "descending")]
    ordered = keys.sort_by([*order, ("file", "ascending"), ("row", "ascending")])
    tasks = ordered["task_id"].combine_chunks()
    first = pa.array([True] * min(len(tasks), 1), pa.bool_())
    changes = pc.not_equal(tasks[1:], tasks[:-1])
    winners = ordered.filter(pa.chunked_array([first, changes]))
    return winners.sort_by([("category", "ascending"), ("task_id", "ascending")])


def read_rows(scan: Scan, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The given rows, in their order; only their row groups are read.

    Args:
        scan: Where the rows are.
        rows: Rows of `scan.keys`.
        columns: Names of columns; null where a file lacks a carried one.

    Raises:
        KeyError: No file has a column of this name.
        FileNotFoundError: A file was moved on by a finalize meanwhile.
        UnreadableFileError: A file is damaged further in.
    """
    unknown = sorted(set(columns) - set(scan.schema.names))
    if unknown:
        raise KeyError(f"columns {unknown}: no file of the run has them")
    schema = pa.schema([scan.schema.field(name) for name in columns], scan.schema.metadata)
    if not len(rows):
        return schema.empty_table()
    file_of_row, row_in_file = rows["file"].to_numpy(), rows["row"].to_numpy()
    order = np.lexsort((row_in_file, file_of_row))
    indices, starts = np.unique(file_of_row[order], return_index=True)
    paths = [scan.files[index] for index in indices]
    rows_of = dict(zip(paths, np.split(row_in_file[order], starts[1:]), strict=True))
    found = do_side_by_side(lambda path: _read_file_rows(path, rows_of[path], columns), paths)
    pieces = [schema.empty_table(), *chain.from_iterable(found)]
    table = pa.concat_tables(pieces, promote_options="permissive").select(schema.names).cast(schema)
    return table.take(np.argsort(order))


def _read_file_rows(path: AnyPath, rows: Any, columns: Sequence[str]) -> list[pa.Table]:
    """The rows of one file, given in ascending order, row group by row group."""
    tables = []
    with open_parquet(path) as file:
        names = set(file.schema_arrow.names)
        # Without any column, a table would not know how many rows it has.
        present = [name for name in columns if name in names] or [KEYS[0]]
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        group_of_row = np.searchsorted(starts, rows, side="right") - 1
        for group in np.unique(group_of_row):
            wanted = rows[group_of_row == group] - starts[group]
            table = file.read_row_group(int(group), columns=present, use_threads=False)
            tables.append(table.take(wanted).replace_schema_metadata())
    return tables


def _located(table: pa.Table, file: int) -> pa.Table:
    count = len(table)
    table = table.append_column("file", pa.array(np.full(count, file, np.int32)))
    return table.append_column("row", pa.array(np.arange(count, dtype=np.int64)))
