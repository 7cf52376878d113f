"""Which textures of a run to train on or to export, and where their images lie.

A texture is a row with an image. Where its exemplar is in another split of another partition of
the same data set, as in DTD, the split that counts is that of the partition that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.acceptance import read_accepted
from pipeline.committed import FileProblem, Scan, open_parquet, read_from_scan
from pipeline.manifest.checks import SPLIT_COLUMNS
from pipeline.rundir import RunDirectory, require_run
from pipeline.storage import AnyPath

READ_COLUMNS = (
    *("task_id", "exemplar_id", "exemplar_sha256", "category"),
    *("variation", "crop", "seed", "height", "width"),
    *("blend_category", "blend_weight"),
)
LOCATED = pa.schema(
    [
        *((name, pa.string()) for name in (*READ_COLUMNS[:4], "split")),
        *((name, pa.int32()) for name in ("variation", "crop")),
        ("seed", pa.int64()),
        *((name, pa.int32()) for name in ("height", "width")),
        *(("blend_category", pa.string()), ("blend_weight", pa.float64())),
        ("file", pa.string()),
        *((name, pa.int32()) for name in ("row_group", "row")),
    ]
)
"""Of a located texture: its columns, and `file` (below the run), `row_group`, `row` (in that)."""
HELD_FOOTERS = 64
MAX_NAMED = 60
"""Values that an error lists: DTD has 47 categories."""


class SelectionError(ValueError):
    """A run has no such textures, or cannot say which."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which textures of a run.

    Attributes:
        partition: Of DTD, 1 to 10: splits are those of the manifest's column `split_K`; of the
            column `split` if None.
        split: Those whose exemplar is in this split; all if None.
        accepted_only: Leave out textures with a fault, as `pipeline.acceptance` says.
        categories: Only of these; of all if None.

    Raises:
        ValueError: No such partition, or `categories` is one text.
    """

    partition: int | None = None
    split: str | None = None
    accepted_only: bool = True
    categories: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.partition is not None and self.partition not in range(1, 11):
            raise ValueError(f"partition {self.partition!r}: expected 1 to 10, or None")
        if isinstance(self.categories, str):
            raise ValueError(f"categories {self.categories!r}: expected a sequence of names")

    @property
    def split_column(self) -> str:
        """The column of a run's rows that says the split."""
        return "split" if self.partition is None else SPLIT_COLUMNS[self.partition - 1]


def locate_rows(run: RunDirectory, selection: Selection) -> pa.Table:
    """The chosen textures of a run and where they are, without their images.

    Args:
        run: A run directory, finished or not. Rows that are committed later are not in the table;
            a finalize moves the rows that are not in `textures/` yet: then locate them again.
        selection: Which.

    Returns:
        A row of `LOCATED` per texture, in the order in which they are stored: of a finished run,
        by category and task id.

    Raises:
        NotARunError: It is no run directory.
        SelectionError: No such column or category, no texture chosen, or damaged files.
    """
    require_run(run)
    return read_from_scan(run, lambda scan: locate_in_scan(run, scan, selection))


def locate_in_scan(run: RunDirectory, scan: Scan, selection: Selection) -> pa.Table:
    """As `locate_rows`, for who reads more of the same rows; raises as `read_rows`, too."""
    rows = _read_textures(run, scan, selection)
    chosen = rows.filter(_is_chosen(rows, selection)).select(LOCATED.names)
    if not len(chosen):
        raise SelectionError(f"{run.path}: no texture is of {selection}: {_describe(rows)}")
    return chosen.cast(LOCATED)


def read_images(run: RunDirectory, located: pa.Table) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The located textures, each with the bytes of its PNG, in the order of the table.

    One row group is held at a time, and read again where the table comes back to it: cheap in the
    order of `locate_rows`, whatever rows are left out.

    Raises:
        SelectionError: The rows are no longer where they were; locate them again.
        UnreadableFileError: A file is damaged.
    """
    for part, pngs in read_stretches(run, located):
        yield from zip(part.to_pylist(), pngs.to_pylist(), strict=True)


def read_stretches(run: RunDirectory, located: pa.Table) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Neighbouring rows of one row group, with their PNGs, again and again; as `read_images`."""
    for part in _stretches(located):
        file, row_group = part["file"][0].as_py(), part["row_group"][0].as_py()
        task_ids, pngs = read_group(run, file, row_group)
        rows = part["row"].combine_chunks()
        if not task_ids.take(rows).equals(part["task_id"].combine_chunks()):
            raise moved(run, file)
        yield part, pngs.take(rows)


def read_group(run: RunDirectory, file: str, row_group: int) -> tuple[pa.Array, pa.Array]:
    """Task ids and PNG bytes of a row group; raises as `read_images`."""
    path = run.path / file
    try:
        status = path.stat()
        footer = _load_footer(path, status.st_mtime_ns, status.st_size)
        if row_group >= footer.num_row_groups:
            raise moved(run, file)
        with open_parquet(path, footer) as parquet:
            columns = ["task_id", "image.bytes"]
            table = parquet.read_row_group(row_group, columns=columns, use_threads=False)
    except FileNotFoundError as error:
        raise moved(run, file) from error
    pngs = pc.struct_field(table["image"].combine_chunks(), "bytes")
    return table["task_id"].combine_chunks(), pngs


@lru_cache(HELD_FOOTERS)
def _load_footer(path: AnyPath, _modified_ns: int, _size: int) -> pq.FileMetaData:
    """What the footer of a file says: 1 ms to read, where the rest of an opening takes 0.1 ms."""
    with open_parquet(path) as parquet:
        return parquet.metadata


def number_groups(located: pa.Table) -> NDArray[np.int64]:
    """The row group of each row, numbered through all files, [N]; the numbers begin with 0."""
    file = located["file"].combine_chunks().dictionary_encode().indices.to_numpy()
    row_group = located["row_group"].to_numpy()
    place = file.astype(np.int64) * (row_group.max(initial=0) + 1) + row_group
    numbers: NDArray[np.int64] = np.unique(place, return_inverse=True)[1]
    return numbers


def moved(run: RunDirectory, file: str) -> SelectionError:
    """What to say where a file is gone or has other rows."""
    place = run.path / file
    return SelectionError(f"{place}: its rows were moved, by a finalize or a retry; select again")


def _read_textures(run: RunDirectory, scan: Scan, selection: Selection) -> pa.Table:
    """The columns of `LOCATED`, and `accepted`, of all textures."""
    column = selection.split_column
    if column not in scan.schema.names:
        there = [name for name in ("split", *SPLIT_COLUMNS) if name in scan.schema.names]
        raise SelectionError(
            f"{run.path}: its manifest had no column {column!r}, expected one of {there}"
        )
    _refuse_damaged(scan.problems)
    winners = scan.winners.append_column("accepted", read_accepted(run, scan))
    winners = winners.sort_by([("file", "ascending"), ("row", "ascending")])
    bounds = np.searchsorted(winners["file"].to_numpy(), np.arange(len(scan.files) + 1))
    schema = LOCATED.append(pa.field("accepted", pa.bool_()))
    tables = [schema.empty_table()]
    for path, (start, stop) in zip(scan.files, pairwise(bounds), strict=True):
        table = _read_file(path, winners.slice(start, stop - start), column)
        names = pa.repeat(run.name_of(path), len(table))
        tables.append(table.append_column("file", names).select(schema.names).cast(schema))
    return pa.concat_tables(tables)


def _read_file(path: AnyPath, winners: pa.Table, split: str) -> pa.Table:
    """The textures among some rows of a file, given in ascending order with `accepted`."""
    rows = winners["row"].to_numpy()
    with open_parquet(path) as file:
        names = [*READ_COLUMNS, "image.path"]
        names += [split] if split in file.schema_arrow.names else []
        table = file.read(names, use_threads=False).replace_schema_metadata()
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    groups = np.searchsorted(starts, rows, side="right") - 1
    table = table.take(rows).append_column("accepted", winners["accepted"])
    if split not in table.column_names:
        table = table.append_column(split, pa.nulls(len(table), pa.string()))
    table = table.append_column("row_group", pa.array(groups))
    table = table.append_column("row", pa.array(rows - starts[groups]))
    table = table.filter(pc.is_valid(table["image"])).drop_columns(["image"])
    return table.rename_columns(["split" if name == split else name for name in table.column_names])


def _refuse_damaged(problems: Sequence[FileProblem]) -> None:
    if problems:
        named = "; ".join(f"{problem.path}: {problem.reason}" for problem in problems[:10])
        raise SelectionError(
            f"files that cannot be read ({len(problems)}), verify the run: {named}"
        )


def _is_chosen(rows: pa.Table, selection: Selection) -> pa.ChunkedArray:
    """Of each texture, whether it is in the selection."""
    chosen = pc.is_valid(rows["task_id"])
    if selection.split is not None:
        chosen = pc.and_(chosen, pc.equal(rows["split"], selection.split))
    if selection.accepted_only:
        chosen = pc.and_(chosen, rows["accepted"])
    if selection.categories is not None:
        names = pa.array(selection.categories, pa.string())
        unknown = names.filter(pc.invert(pc.is_in(names, rows["category"])))
        if len(unknown):
            raise SelectionError(f"categories {unknown.to_pylist()}: {_describe(rows)}")
        chosen = pc.and_(chosen, pc.is_in(rows["category"], names))
    return chosen


def _describe(rows: pa.Table) -> str:
    """What there is to choose from."""
    parts = [f"there are {len(rows)} textures, {pc.sum(rows['accepted']).as_py() or 0} accepted"]
    for name in ("split", "category"):
        counts = pc.value_counts(rows[name].combine_chunks()).to_pylist()
        pairs = sorted((str(count["values"]), count["counts"]) for count in counts)
        if pairs:
            parts.append(f"{name} " + ", ".join(f"{value}: {n}" for value, n in pairs[:MAX_NAMED]))
    return "; ".join(parts)


def _stretches(located: pa.Table) -> Iterator[pa.Table]:
    """Slices of neighbouring rows of one row group."""
    changes = np.flatnonzero(np.diff(number_groups(located))) + 1
    for start, stop in pairwise([0, *changes.tolist(), len(located)]):
        if stop > start:
            yield located.slice(start, stop - start)
