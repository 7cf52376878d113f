"""The results of a run as data frames and images, during the run or after it."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipeline.committed import Scan, read_committed, read_from_scan, read_rows
from pipeline.rundir import RunDirectory


def load_metrics(run: RunDirectory) -> pd.DataFrame:
    """All columns but the image, one row per task, sorted by (category, task_id).

    From `metrics.parquet` if nothing was committed since it was written, else from the rows.
    """
    newer = any(run.shards.glob("*.parquet")) or run.replaced()
    if run.metrics.exists() and not newer:
        table = pq.read_table(run.metrics, page_checksum_verification=True)
    else:
        table, _ = read_committed(run)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def load_images(run: RunDirectory, task_ids: Iterable[str]) -> dict[str, Image.Image]:
    """The stored textures of some tasks, by task id; only their row groups are read.

    Raises:
        KeyError: A task has no committed row, or its row no image.
    """
    wanted = list(dict.fromkeys(task_ids))

    def read(scan: Scan) -> dict[str, bytes | None]:
        rows = scan.winners.filter(pc.is_in(scan.winners["task_id"], pa.array(wanted, pa.string())))
        table = read_rows(scan, rows, ["task_id", "image"])
        pngs = pc.struct_field(table["image"], "bytes")
        return dict(zip(table["task_id"].to_pylist(), pngs.to_pylist(), strict=True))

    pngs = read_from_scan(run, read)
    absent = [name for name in wanted if pngs.get(name) is None]
    if absent:
        raise KeyError(f"{run.path}: no image of tasks {absent[:10]}, {len(absent)} in all")
    return {name: _decode(pngs[name]) for name in wanted}


def _decode(png: bytes | None) -> Image.Image:
    image = Image.open(io.BytesIO(png or b""))
    image.load()
    return image
