"""What single steps of a run cost in CPU time, measured on this machine by the code that does them.

Each on a local file system, in one process; an object store adds its waiting, which is no CPU time.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from rich.console import Console

from benchmarks.synthetic_run import SyntheticRun, make_noise_png
from pipeline.attempts import AttemptFile, load_attempts
from pipeline.config import RunConfig
from pipeline.prepare import ExemplarSource, prepare_tasks
from pipeline.progress import RunProgress
from pipeline.rundir import RunDirectory
from pipeline.runlog import RunLog
from pipeline.schema import row_schema
from pipeline.shards import commit_rows
from pipeline.storage import sorted_glob
from pipeline.tail import begin_block
from pipeline.tasks import expand_tasks

SHARDS = 100
SHARD_ROWS = (4, 32)
"""In a small and in a large shard: their difference is what rows cost."""
LISTED = 20_000
SOURCE_PX = (480, 640)
"""As most images of DTD have."""
SOURCES = 50
ACTORS = 200
LANES = 64
"""In flight in the file of attempts of every actor, as on a GPU."""


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """CPU seconds of single steps, unless said otherwise.

    Attributes:
        prepare: To read, decode, crop and shrink a JPEG of SOURCE_PX, for all tasks of its crop.
        commit_shard, commit_row: Of an actor, to write a shard, and more for each row in it.
        count_shard, count_row: Of the driver, to read a new shard, and more for each row of it: to
            count it and write its line in the log.
        log_bytes_per_row: Of that line, bytes.
        list_entry: Of a listing of `shards/`, for each file in it.
        attempts_file: Of an actor that begins a block after a death, to read what another has in
            flight.
        begin_block: Of an actor, to see that nobody has begun a block before.
        row_bytes: Of a committed row without its picture, bytes.
    """

    prepare: float
    commit_shard: float
    commit_row: float
    count_shard: float
    count_row: float
    log_bytes_per_row: float
    list_entry: float
    attempts_file: float
    begin_block: float
    row_bytes: float


def measure_steps(size_px: int) -> StepCosts:
    """Do each step often enough to be measured; `size_px` of the pictures in committed rows."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = (
            _measure_shards(Path(folder) / str(rows), rows, size_px) for rows in (4, 32)
        )
        run = RunDirectory(Path(folder) / "other")
        run.create()
        for number in range(LISTED):
            (run.shards / f"part-{number:016x}.parquet").touch()
        listing = cpu_seconds(lambda: sorted_glob(run.shards, "*.parquet")) / LISTED
        for number in range(ACTORS):
            tasks = {f"category_00000{lane:02d}-c{number}-v0": 1 for lane in range(LANES)}
            AttemptFile(run, "session").begin(tasks)
        attempts = cpu_seconds(lambda: load_attempts(run)) / ACTORS
        prepare = _measure_prepare(Path(folder), size_px)
        blocks = [[{"task_id": f"t{number}", "attempts": 0}] for number in range(SHARDS)]
        begin = cpu_seconds(lambda: [begin_block(run, block) for block in blocks]) / SHARDS
    commit_row, count_row = (
        (large[i] - small[i]) / (SHARD_ROWS[1] - SHARD_ROWS[0]) for i in (0, 1)
    )
    return StepCosts(
        prepare=prepare,
        commit_shard=small[0] - SHARD_ROWS[0] * commit_row,
        commit_row=commit_row,
        count_shard=small[1] - SHARD_ROWS[0] * count_row,
        count_row=count_row,
        log_bytes_per_row=large[2],
        list_entry=listing,
        attempts_file=attempts,
        begin_block=begin,
        row_bytes=large[3],
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, all its threads, for a piece of work."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _measure_prepare(folder: Path, size_px: int) -> float:
    """CPU of preparing one exemplar."""
    height, width = SOURCE_PX
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(noise).resize((width, height)).save(folder / "x.jpg", quality=90)
    names = [f"x{number}" for number in range(SOURCES)]
    exemplars = pa.table({"exemplar_id": names, "path": ["x.jpg"] * SOURCES})
    tasks = expand_tasks(exemplars, crops=1, variations=1, seed=0)
    config = RunConfig.model_validate({"weights": "random:0", "size": size_px}).resolved()
    source = ExemplarSource(str(folder), config)
    return cpu_seconds(lambda: prepare_tasks(tasks, source)) / SOURCES


def _measure_shards(folder: Path, rows: int, size_px: int) -> tuple[float, float, float, float]:
    """CPU of a commit and of counting it, bytes of a row in the log and in a shard."""
    run = RunDirectory(folder)
    run.create()
    tables = _tables(folder, rows, size_px)
    # The first import and the first of everything are not counted.
    commit_rows(run, tables.pop())
    progress = RunProgress(run, SHARDS * rows, Console(file=io.StringIO()), RunLog(run))
    commit = cpu_seconds(lambda: [commit_rows(run, table) for table in tables]) / len(tables)
    count = cpu_seconds(progress._count) / len(tables)
    counted = len(tables) * rows
    picture = len(tables[0]["image"][0].as_py()["bytes"])
    stored = sum(path.stat().st_size for path in sorted_glob(run.shards, "*.parquet"))
    return (
        commit,
        count,
        run.log.stat().st_size / counted,
        stored / (counted + rows) - picture,
    )


def _tables(folder: Path, rows: int, size_px: int) -> list[pa.Table]:
    """Tables of rows of the real schema with pictures, each of other tasks."""
    whole = SyntheticRun(rows=rows * (SHARDS + 1), variations=1, size_px=size_px)
    generator = np.random.default_rng(0)
    tasks = whole.tasks()
    png = make_noise_png(size_px, generator)
    picture = pa.array([{"bytes": png, "path": "x.png"}] * rows, row_schema().field("image").type)
    tables = []
    for start in range(0, len(tasks), rows):
        table = whole.make_rows(tasks.slice(start, rows), 0, generator)
        place = table.schema.get_field_index("image")
        tables.append(table.set_column(place, table.schema.field(place), picture))
    return tables
