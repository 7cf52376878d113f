"""Committed rows written anew: the files of `textures/`, side by side, and proved complete.

Which files these replace, and in what order, is a matter of `pipeline.finalize`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import Scan, open_parquet, read_rows
from pipeline.rundir import atomic_path, naming, sync
from pipeline.schema import compute_flags, with_rules
from pipeline.shards import ROW_GROUP_ROWS, compute_rows_digest, open_row_writer
from pipeline.siblings import compute_sibling_distances
from pipeline.side_by_side import do_side_by_side
from pipeline.storage import AnyPath

# More takes more memory (256 PNGs of 256 px are 33 MB), fewer read a shard more often: one whose
# rows end up far apart is read once for every gathering that has one of them.
GATHERED_ROWS = 4 * ROW_GROUP_ROWS
PARTS_AT_ONCE = 8
"""Files of `textures/` that are written side by side, where there are as many cores."""
PARTS_BYTES = 2**31
"""What the rows of these may take; of large pictures fewer files are written at once."""
GATHERED_COPIES = 4
"""Of gathered rows in memory, at most: as read, in order, in the writer, and as it encodes them."""
SAMPLED_FILES = 16
"""Of a run, whose textures are all of one size."""


class FinalizeError(RuntimeError):
    """What was built is not what is committed; nothing was removed."""


@dataclass(frozen=True)
class Parts:
    """How the files of `textures/` are made: rows in each, and the rules that all rows get."""

    rows: int
    rules: Mapping[str, str] | None = None

    def flag(self, table: pa.Table, distances: pa.ChunkedArray) -> pa.Table:
        """The rows with these distances to their siblings, and the flags that follow."""
        changed = not table["sibling_distance"].equals(distances)
        if changed:
            place = table.schema.get_field_index("sibling_distance")
            table = table.set_column(place, table.schema.field(place), distances)
        if self.rules is not None:
            table = with_rules(table, self.rules)
        return compute_flags(table) if changed or self.rules is not None else table

    def hold(self, scan: Scan) -> bool:
        """Whether all rows have the rules already."""
        if self.rules is None:
            return True
        stored = read_rows(scan, scan.winners, ["flag_rules"])
        return bool(stored.equals(with_rules(stored, self.rules)))


def write_parts(folder: AnyPath, scan: Scan, parts: Parts) -> None:
    """Write the rows that count into files of a folder, which may have others.

    Raises:
        FinalizeError: The files do not hold each committed task once.
        OSError: The disk is full, or the like.
        UnreadableFileError: A file with rows is damaged further in.
    """
    winners = scan.winners.append_column("sibling_distance", compute_sibling_distances(scan))
    starts = range(0, max(len(winners), 1), parts.rows)
    digest = _new_digest(folder, scan, winners)
    paths = [folder / f"part-{number:05d}-{digest}.parquet" for number in range(len(starts))]
    rows_of = {p: winners.slice(s, parts.rows) for s, p in zip(starts, paths, strict=True)}
    ended = threading.Event()

    def write(path: AnyPath) -> None:
        _write_part(path, _read_gathered(scan, rows_of[path], parts, ended), scan.schema)

    at_most = choose_parts_at_once(scan.files)
    for _ in do_side_by_side(write, paths, at_most=at_most, ended=ended):
        pass
    if isinstance(folder, Path):
        sync(folder)
    _prove(paths, winners)


def choose_parts_at_once(files: Sequence[AnyPath]) -> int:
    """How many files are written side by side, by the bytes of a row in those that are read."""
    sampled = files[:: -(-len(files) // SAMPLED_FILES) or 1]
    sizes = list(do_side_by_side(_measure, sampled))
    rows, size = sum(rows for rows, _ in sizes), sum(size for _, size in sizes)
    of_a_part = GATHERED_COPIES * GATHERED_ROWS * size / max(rows, 1)
    return max(1, min(PARTS_AT_ONCE, int(PARTS_BYTES / max(of_a_part, 1))))


def _measure(path: AnyPath) -> tuple[int, int]:
    """Rows of a file, and their bytes before they are compressed."""
    with open_parquet(path) as file:
        footer = file.metadata
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        return footer.num_rows, sum(group.total_byte_size for group in groups)


def _new_digest(folder: AnyPath, scan: Scan, winners: pa.Table) -> str:
    """Of the rows; with a number, where files in the folder have it already.

    Those may be read at this moment, by somebody who must not get parts of two files.
    """
    digest = compute_rows_digest(_task_attempts(winners))
    taken = {path.name for path in scan.files if path.parent == folder}
    names = (digest, *(f"{digest}-{number}" for number in range(1, len(taken) + 1)))
    return next(name for name in names if not any(t.endswith(f"-{name}.parquet") for t in taken))


def _read_gathered(
    scan: Scan, rows: pa.Table, parts: Parts, ended: threading.Event
) -> Iterator[pa.Table]:
    """The rows of a file, some at a time, until nobody waits for it any more."""
    for start in range(0, len(rows), GATHERED_ROWS):
        gathered = rows.slice(start, GATHERED_ROWS)
        table = read_rows(scan, gathered, scan.schema.names)
        yield parts.flag(table, gathered["sibling_distance"])
        if ended.is_set():
            # Put now, the file could come into what the next holder of a lost lock has finished.
            raise CancelledError


def _write_part(path: AnyPath, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    writing = nullcontext(path) if isinstance(path, Path) else atomic_path(path)
    with naming(path), writing as place, open_row_writer(place, schema) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    if isinstance(path, Path):
        sync(path)


def _prove(paths: Sequence[AnyPath], winners: pa.Table) -> None:
    """Raise unless the files hold each committed task once, in order."""
    names = ["task_id", "attempts"]
    built = read_columns(paths, names)
    tasks, distinct = len(built), pc.count_distinct(built["task_id"]).as_py()
    if distinct != tasks or not built.equals(winners.select(names).combine_chunks()):
        got = f"{tasks} rows of {distinct} tasks"
        raise FinalizeError(f"{paths[0].parent}: got {got}, expected {len(winners)} of as many")


def read_columns(paths: Sequence[AnyPath], names: list[str]) -> pa.Table:
    """These columns of some files, one after the other; raises as `open_parquet`."""

    def read(path: AnyPath) -> pa.Table:
        with open_parquet(path) as file:
            return file.read(names, use_threads=False).replace_schema_metadata()

    return pa.concat_tables(do_side_by_side(read, paths)).combine_chunks()


def _task_attempts(rows: pa.Table) -> Iterable[tuple[str, int]]:
    return zip(rows["task_id"].to_pylist(), rows["attempts"].to_pylist(), strict=True)
