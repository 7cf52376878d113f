"""A run directory with some of the rows of another one, whole or not there.

It is written beside its place, rows as shards that a finalize then compacts and proves, and renamed
at the end. In an object store, which cannot rename, it is written in its place, and a mark beside
it says until the end that it is not whole. What a killed process has left of it is removed by the
next one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import Scan, UnreadableFileError, read_from_scan, read_rows
from pipeline.compaction import GATHERED_ROWS
from pipeline.finalize import finalize
from pipeline.folder_lock import FolderBusyError, hold_folder
from pipeline.object_tree import list_tree
from pipeline.resume import RunRecord, load_run_record, write_run_record, write_tasks
from pipeline.rundir import TEMPORARY_PREFIX, RunDirectory, sync
from pipeline.shards import commit_rows
from pipeline.side_by_side import remove_side_by_side
from pipeline.storage import AnyPath, ObjectPath

UNFINISHED = "unfinished"
"""Name of the mark."""
LOCK = ".lock"
"""As a run directory has it, which the folder becomes."""


class FilterError(ValueError):
    """The safe part of a run cannot be told, is empty, or has no place to be written to."""


def write_part(
    run: RunDirectory, out: AnyPath, record: RunRecord, tasks: pa.Table, kept: pa.ChunkedArray
) -> None:
    """Write chosen rows of a run to a directory of their own.

    Args:
        run: Whose rows; it is not changed.
        out: The new directory; nothing may be there.
        record: Of the new directory. All rows get the split of its configuration.
        tasks: Of the run.
        kept: Ids of the tasks whose rows are taken, in the order of the run's rows.

    Raises:
        FilterError: Something is at `out`, another process writes it, or a row cannot be read.
        OSError: The disk is full, or the like; nothing is left at `out`.
    """
    split = record.config["split"]
    with _alone(out) as is_alone, _built(out, is_alone) as folder:
        building = RunDirectory(folder)
        building.create()
        write_run_record(building, record)
        of_rows = tasks.filter(pc.is_in(tasks["task_id"], kept))
        write_tasks(building, _with_split(of_rows, split))
        for table in _read_kept(run, kept):
            commit_rows(building, _with_split(table, split))
        if missing := finalize(building, kept).missing:
            raise FilterError(f"{folder}: {len(missing)} rows that were written cannot be read")


def refuse_taken(out: AnyPath) -> None:
    """Refuse a place where something is, unless it is what a killed process has left.

    Raises:
        FilterError: Says so.
    """
    if isinstance(out, ObjectPath):
        if out.parent == out:
            raise FilterError(f"out '{out}' is a whole bucket, expected a folder in it")
        if (_place_beside(out) / UNFINISHED).exists() and _is_part(out):
            return
    if out.exists() or out.is_symlink():
        raise FilterError(f"out '{out}' is there already, expected a path where nothing is")


def _is_part(out: ObjectPath) -> bool:
    """Whether what is there was written by a filter, which begins with `run.json`."""
    record = load_run_record(RunDirectory(out))
    return record is not None and record.filtered is not None


def _place_beside(out: AnyPath) -> AnyPath:
    return out.with_name(f"{TEMPORARY_PREFIX}{out.name}")


@contextmanager
def _alone(out: AnyPath) -> Iterator[Callable[[], bool]]:
    """Be the only process that writes to a place; gives what tells whether that is so still."""
    try:
        with hold_folder(_place_beside(out), LOCK) as is_alone:
            yield is_alone
    except FolderBusyError as error:
        raise FilterError(f"out '{out}': another process writes it") from error


@contextmanager
def _built(out: AnyPath, is_alone: Callable[[], bool]) -> Iterator[AnyPath]:
    """Give a folder to fill, which is `out` at the end, and gone after an error."""
    beside = _place_beside(out)
    if isinstance(out, ObjectPath) and isinstance(beside, ObjectPath):
        mark = beside / UNFINISHED
        refuse_taken(out)
        if mark.exists():
            _remove_part(out)
        mark.touch()
        try:
            yield out
        except BaseException:
            # What another process has begun in this place meanwhile is not ours to remove.
            if is_alone():
                _remove_part(out)
                mark.unlink()
            raise
        mark.unlink()
    elif isinstance(out, Path) and isinstance(beside, Path):
        try:
            refuse_taken(out)
            _empty(beside)
            yield beside
            beside.rename(out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        sync(out.parent)


def _remove_part(out: ObjectPath) -> None:
    """Remove what a filter has written, last that by which it is known."""
    known_by = RunDirectory(out).run_json
    remove_side_by_side([path for path in list_tree(out) if path != known_by])
    known_by.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _read_kept(run: RunDirectory, kept: pa.ChunkedArray) -> Iterator[pa.Table]:
    """The rows of these tasks, some at a time; located again where a finalize moves them."""
    done = 0
    while done < len(kept):
        scan, rows = _locate(run, kept.slice(done))
        for start in range(0, len(rows), GATHERED_ROWS):
            try:
                table = read_rows(scan, rows.slice(start, GATHERED_ROWS), scan.schema.names)
            except FileNotFoundError:
                break
            except UnreadableFileError as error:
                raise _unreadable(run, len(kept) - done, str(error)) from error
            yield table
            done += len(table)


def _locate(run: RunDirectory, kept: pa.ChunkedArray) -> tuple[Scan, pa.Table]:
    """Where the rows of these tasks are, all of them."""

    def find(scan: Scan) -> tuple[Scan, pa.Table]:
        return scan, scan.winners.filter(pc.is_in(scan.winners["task_id"], kept))

    scan, rows = read_from_scan(run, find)
    if missing := len(kept) - len(rows):
        named = "; ".join(f"{problem.path}: {problem.reason}" for problem in scan.problems)
        raise _unreadable(run, missing, named)
    return scan, rows


def _unreadable(run: RunDirectory, rows: int, reason: str) -> FilterError:
    return FilterError(
        f"{rows} rows of '{run.path}' could not be read; `texsynth verify` says which files are "
        f"damaged, and how to mend them: {reason}"
    )


def _with_split(table: pa.Table, split: str) -> pa.Table:
    place = table.schema.get_field_index("split")
    values = pa.array([split] * len(table), pa.string())
    return table.set_column(place, table.schema.field(place), values)
