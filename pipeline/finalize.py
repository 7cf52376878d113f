"""Shards compacted into `textures/`, then `metrics.parquet`, then `_SUCCESS`.

A crash at any point loses no row, and `read_committed` sees each task once throughout:

1. Build: the rows that count get the distance to their siblings, which only now are all there, and
   go, sorted by (category, task_id), into a folder that no reader looks at. Its tasks are proved
   unique and complete before anything else changes.
2. Swap: `textures/` is renamed to `_replaced-N/`, the new folder to `textures/`. Readers that glob
   `textures/*.parquet` never see a row twice; between the two renames they see no folder at all.
   File names hold a digest of the rows, so that no reader mixes the files of two folders.
   `read_committed` looks into `_replaced-*` too.
3. `metrics.parquet` is written from the new files.
4. The files that were compacted are removed: these shards, the replaced folder's files. A file that
   could not be read is never removed: it stays and goes on being named, or, where only its pages
   are damaged, is moved to `NAME.damaged` in the run directory: its tasks count as missing.
5. `_SUCCESS` is written if no task is missing; otherwise it is removed, before step 1.

On an object store, which cannot rename, step 2 is left out: `_SUCCESS` is removed, and step 1 puts
its files into `textures/` itself, under names that no file there has. Until step 4 has removed the
earlier ones, `read_committed` sees each task once, who reads the folder as a whole not.

Run again after a crash, it starts from what is there; with nothing to be done it writes nothing.
Files are written side by side, one for each core and eight at most, fewer of large pictures; of
each a few row groups are in memory at a time. It must not run beside another finalize.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.committed import (
    FileProblem,
    Scan,
    UnreadableFileError,
    list_files,
    scan_committed,
)
from pipeline.compaction import Parts, read_columns, write_parts
from pipeline.rundir import (
    DAMAGED_SUFFIX,
    REPLACED_PREFIX,
    TEMPORARY_PREFIX,
    RunDirectory,
    atomic_path,
    sync,
    write_json_atomic,
)
from pipeline.schema import carried_columns, metrics_schema
from pipeline.side_by_side import do_side_by_side, remove_side_by_side
from pipeline.storage import AnyPath, ObjectPath, require_local


@dataclass(frozen=True)
class Finalized:
    """What a finalize found and left.

    Attributes:
        rows: Number of committed rows, each of another task.
        missing: Ids of the expected tasks that have no row.
        files: The files of `textures/`, in order.
        problems: Files that could not be read and were left alone, where they lie now.
    """

    rows: int
    missing: tuple[str, ...]
    files: tuple[AnyPath, ...]
    problems: tuple[FileProblem, ...]


def finalize(
    run: RunDirectory,
    expected: pa.Array | pa.ChunkedArray,
    *,
    rows_per_file: int = 1024,
    rules: Mapping[str, str] | None = None,
) -> Finalized:
    """Compact the committed rows of a run; see the module for the order of events.

    Args:
        run: The run directory.
        expected: The ids of all tasks of the manifest.
        rows_per_file: The largest number of rows in a file of `textures/`.
        rules: Of all flags, which all rows get anew; None leaves each row as it is.

    Raises:
        FinalizeError: The built files do not hold each committed task once.
        OSError: The disk is full, or the like; the shards are still there.
    """
    damaged: list[FileProblem] = []
    while True:
        try:
            return _finalize(run, expected, Parts(rows_per_file, rules), damaged)
        except UnreadableFileError as error:
            damaged.append(_put_aside(run, error.problem))


def _finalize(
    run: RunDirectory,
    expected: pa.Array | pa.ChunkedArray,
    parts: Parts,
    damaged: list[FileProblem],
) -> Finalized:
    scan = scan_committed(run)
    missing = expected.filter(pc.invert(pc.is_in(expected, scan.winners["task_id"])))
    if len(missing):
        run.success.unlink(missing_ok=True)
    obsolete = [path for path in scan.files if path.parent != run.textures]
    if not _is_compact(run, scan) or not parts.hold(scan):
        if isinstance(run.path, ObjectPath):
            obsolete += _add_generation(run, scan, parts, damaged)
        else:
            obsolete += _swap(run, scan, _build(run, scan, parts))
    gone = set(obsolete)
    there = (path for path in list_files(run) if path not in gone)
    files = tuple(path for path in there if path.parent == run.textures)
    _write_metrics(run, files, scan.schema)
    _remove(run, obsolete)
    if not len(missing):
        _write_success(run, len(scan.winners))
    problems = (*damaged, *scan_committed(run).problems)
    return Finalized(len(scan.winners), tuple(missing.to_pylist()), files, problems)


def _put_aside(run: RunDirectory, problem: FileProblem) -> FileProblem:
    """Move a damaged file out of the way, to where it goes on being named."""
    path, aside = problem.path, run.path / f"{problem.path.name}{DAMAGED_SUFFIX}"
    if isinstance(path, ObjectPath) and isinstance(aside, ObjectPath):
        path.move(aside)
    elif isinstance(path, Path) and isinstance(aside, Path):
        path.replace(aside)
    return FileProblem(aside, problem.reason)


def _write_success(run: RunDirectory, tasks: int) -> None:
    """Write the marker, unless it says this already."""
    values = {"tasks": tasks}
    try:
        said = json.loads(run.success.read_bytes())
    except (OSError, ValueError):
        said = None
    if said != values:
        write_json_atomic(run.success, values)


def _is_compact(run: RunDirectory, scan: Scan) -> bool:
    """Whether `textures/` holds exactly the rows that count, in order, and nothing unreadable."""
    inside = [index for index, path in enumerate(scan.files) if path.parent == run.textures]
    stored = scan.keys.filter(pc.is_in(scan.keys["file"], pa.array(inside, pa.int32())))
    unreadable = any(problem.path.parent == run.textures for problem in scan.problems)
    return bool(inside) and not unreadable and bool(stored.equals(scan.winners))


def _add_generation(
    run: RunDirectory, scan: Scan, parts: Parts, damaged: list[FileProblem]
) -> list[AnyPath]:
    """Put files with the rows that count beside those that there are; gives the ones replaced."""
    run.success.unlink(missing_ok=True)
    damaged += [_put_aside(run, p) for p in scan.problems if p.path.parent == run.textures]
    write_parts(run.textures, scan, parts)
    return [path for path in scan.files if path.parent == run.textures]


def _build(run: RunDirectory, scan: Scan, parts: Parts) -> Path:
    """A folder with the rows that count, proved complete."""
    folder = require_local(run.path, "folder") / f"{TEMPORARY_PREFIX}textures"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        write_parts(folder, scan, parts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _swap(run: RunDirectory, scan: Scan, built: Path) -> list[AnyPath]:
    """Put the built folder in place; gives the read files of the one that it replaced."""
    replaced: list[AnyPath] = []
    folder, textures = require_local(run.path, "folder"), require_local(run.textures, "folder")
    if textures.exists():
        taken = {path.name for path in run.replaced()}
        names = (f"{REPLACED_PREFIX}{number}" for number in range(len(taken) + 1))
        aside = folder / next(name for name in names if name not in taken)
        textures.replace(aside)
        replaced = [aside / path.name for path in scan.files if path.parent == run.textures]
    built.replace(textures)
    sync(folder)
    return replaced


def _write_metrics(run: RunDirectory, files: Iterable[AnyPath], schema: pa.Schema) -> None:
    """Write `metrics.parquet` from the files of `textures/`, unless it is theirs already."""
    files = list(files)
    schema = metrics_schema(carried_columns(schema))
    if _has_keys_of(run.metrics, files):
        return
    with (
        atomic_path(run.metrics) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in do_side_by_side(lambda path: read_columns([path], schema.names), files):
            writer.write_table(table.cast(schema))


def _has_keys_of(metrics: AnyPath, files: list[AnyPath]) -> bool:
    # A task whose row was lost begins again at attempt 1: only the time tells the rows apart.
    keys = ["task_id", "attempts", "finished_at", "flag_rules"]
    stored = read_columns(files, keys)
    try:
        return bool(read_columns([metrics], keys).equals(stored))
    except (FileNotFoundError, UnreadableFileError):
        return False


def _remove(run: RunDirectory, files: Iterable[AnyPath]) -> None:
    """Remove compacted files, what a killed writer left, and the folders that this empties."""
    remove_side_by_side([*files, *run.temporaries()])
    for folder in run.replaced():
        if not any(folder.iterdir()):
            require_local(folder, "folder").rmdir()
