"""The results of a run as data frames and images, during the run or after it."""

from __future__ import annotations

import io
import stat
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipeline.committed import (
    Scan,
    UnreadableFileError,
    open_parquet,
    read_committed,
    read_from_scan,
    read_rows,
)
from pipeline.rundir import RunDirectory, require_run
from pipeline.schema import metrics_schema, row_schema
from pipeline.storage import sorted_glob

TASK_ID_COLUMN = metrics_schema().get_field_index("task_id")


def load_metrics(run: RunDirectory | Path | str) -> pd.DataFrame:
    """All columns but the pictures, one row per task, sorted by (category, task_id).

    From `metrics.parquet` if it is whole and nothing was committed since it was written, else from
    the rows.

    Args:
        run: A run directory, finished or not.

    Raises:
        NotARunError: It is no run directory.
    """
    directory = as_run(run)
    table = _read_finalized_metrics(directory)
    if table is None:
        table, _ = read_committed(directory)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def load_images(run: RunDirectory | Path | str, task_ids: Iterable[str]) -> dict[str, Image.Image]:
    """The stored textures of some tasks, by task id; only their row groups are read.

    Args:
        run: A run directory, finished or not.
        task_ids: Of committed rows.

    Raises:
        NotARunError: It is no run directory.
        KeyError: A task has no committed row, or its row no image.
    """
    directory = as_run(run)
    wanted = list(dict.fromkeys(task_ids))

    def read(scan: Scan) -> pa.Table:
        rows = scan.winners.filter(pc.is_in(scan.winners["task_id"], pa.array(wanted, pa.string())))
        return read_rows(scan, rows, ["task_id", "image"])

    table = _read_finalized_images(directory, wanted)
    if table is None:
        table = read_from_scan(directory, read)
    bytes_of_image = pc.struct_field(table["image"], "bytes")
    pngs = dict(zip(table["task_id"].to_pylist(), bytes_of_image.to_pylist(), strict=True))
    absent = [name for name in wanted if pngs.get(name) is None]
    if absent:
        raise KeyError(f"{directory.path}: no image of tasks {absent[:10]}, {len(absent)} in all")
    return {name: _decode(pngs[name]) for name in wanted}


def as_run(run: RunDirectory | Path | str) -> RunDirectory:
    """A run directory that there is.

    Raises:
        NotARunError: It is no run directory.
    """
    directory = run if isinstance(run, RunDirectory) else RunDirectory(Path(run))
    require_run(directory)
    return directory


def is_current(run: RunDirectory) -> bool:
    """Whether `metrics.parquet` is there and nothing was committed since it was written."""
    try:
        regular = stat.S_ISREG(run.metrics.stat().st_mode)
    except FileNotFoundError:
        return False
    return regular and not any(run.shards.glob("*.parquet")) and not run.replaced()


def _read_finalized_metrics(run: RunDirectory) -> pa.Table | None:
    """`metrics.parquet`; None if only a scan can tell."""
    if not is_current(run):
        return None
    try:
        with open_parquet(run.metrics) as file:
            return file.read()
    except (FileNotFoundError, UnreadableFileError):
        return None


def _read_finalized_images(run: RunDirectory, wanted: list[str]) -> pa.Table | None:
    """`task_id` and `image` of those of the tasks that there are; None if only a scan can tell.

    A finalize writes a row group of `metrics.parquet` for every file in `textures/`, in the same
    order: the row group of a task, and its number there, say where its image is.
    """
    if not is_current(run):
        return None
    files = tuple(sorted_glob(run.textures, "*.parquet"))
    try:
        with open_parquet(run.metrics) as metrics:
            if metrics.num_row_groups != len(files):
                return None
            places = _find_rows(metrics, wanted)
        empty = row_schema().empty_table()
        scan = Scan(files, empty, empty, row_schema(), ())
        table = read_rows(scan, places, ["task_id", "image"])
    except (FileNotFoundError, UnreadableFileError, pa.ArrowIndexError):
        return None
    return table if table["task_id"].equals(places["task_id"]) else None


def _find_rows(metrics: pq.ParquetFile, wanted: list[str]) -> pa.Table:
    """Where the tasks are: `task_id`, `file` (number of the row group) and `row` (in it)."""
    ordered = sorted(wanted)
    tables: list[pa.Table] = []
    for group in range(metrics.num_row_groups):
        if sum(map(len, tables)) == len(wanted):
            break
        least, greatest = _bounds(metrics, group)
        names = ordered[bisect_left(ordered, least) : bisect_right(ordered, greatest)]
        if names:
            read = metrics.read_row_group(group, columns=["task_id"], use_threads=False)
            ids = read["task_id"]
            rows = pc.indices_nonzero(pc.is_in(ids, pa.array(names, pa.string())))
            files = pa.array(np.full(len(rows), group, np.int32))
            columns = {"task_id": ids.take(rows), "file": files, "row": rows.cast(pa.int64())}
            tables.append(pa.table(columns))
    fields = [("task_id", pa.string()), ("file", pa.int32()), ("row", pa.int64())]
    return pa.concat_tables([pa.schema(fields).empty_table(), *tables])


def _bounds(metrics: pq.ParquetFile, group: int) -> tuple[str, str]:
    """The least and the greatest `task_id` of a row group, as far as its statistics tell."""
    statistics = metrics.metadata.row_group(group).column(TASK_ID_COLUMN).statistics
    if statistics is None or not statistics.has_min_max:
        return "", chr(sys.maxunicode)
    return statistics.min, statistics.max


def _decode(png: bytes | None) -> Image.Image:
    image = Image.open(io.BytesIO(png or b""))
    image.load()
    return image
