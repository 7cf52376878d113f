"""What `texsynth run` takes until its first block could be prepared.

    python -m benchmarks.start_up [--rows 100000 1000000 5000000] [--format csv]

The driver's own code, from the manifest to `pending.parquet`, in a process of its own for every
line; it ends where the executor would begin. Not in it: the start of Ray. A resumed run has half of
its tasks committed, in files of as many rows as finalize writes, and its list of tasks written.

Memory is the largest resident set of the process (VmHWM), imports and weights included; the clock
of a shared machine says little, CPU time beside it more.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console

import pipeline.run
from benchmarks.environment import describe_environment
from pipeline.config import RunConfig
from pipeline.rundir import RunDirectory
from pipeline.schema import REQUIRED_COLUMNS, row_schema
from pipeline.shards import ROW_GROUP_ROWS, open_row_writer
from pipeline.table_stream import BATCH_ROWS

CATEGORIES = 47
ROWS_PER_FILE = 1024
"""As `finalize` has it."""
GIB = 2**30
COLUMNS = ("tasks", "state", "committed files", "seconds", "CPU s", "CPU µs/task", "peak GiB")


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """One start.

    Attributes:
        tasks: Of the manifest; `left` of them are to do.
        files: That hold committed rows.
        seconds: Until the executor would begin, by the clock.
        cpu_s: Of the process and its threads, likewise.
        peak_bytes: Largest resident set until then.
    """

    tasks: int
    left: int
    files: int
    seconds: float
    cpu_s: float
    peak_bytes: int


class _StartedError(Exception):
    """The executor would begin now."""


def exemplar_batches(rows: int) -> Iterator[pa.Table]:
    """A manifest of so many rows: ids, paths, categories, splits, checksums."""
    for start in range(0, rows, BATCH_ROWS):
        numbers = np.arange(start, min(start + BATCH_ROWS, rows))
        digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 8, "0")
        category = pa.array([f"category_{number % CATEGORIES:02d}" for number in numbers])
        ids = pc.binary_join_element_wise(category, digits, "_")
        name = pc.binary_join_element_wise(ids, "jpg", ".")
        columns = {
            "exemplar_id": ids,
            "path": pc.binary_join_element_wise(category, name, "/"),
            "category": category,
            "split": pa.array(np.array(["train", "val", "test"])[numbers % 3]),
            "sha256": pc.binary_repeat(digits, 8),
        }
        yield pa.table(columns)


def write_manifest(path: Path, rows: int) -> None:
    """Write it batch by batch, as CSV or Parquet."""
    batches = exemplar_batches(rows)
    first = next(batches)
    kind = pa.csv.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter
    with kind(str(path), first.schema) as writer:
        writer.write_table(first)
        for batch in batches:
            writer.write_table(batch)


def commit_half(run: RunDirectory, *, group_rows: int = ROWS_PER_FILE) -> int:
    """Give every other file-full of tasks their rows, as `textures/`; gives the number of files."""
    run.textures.mkdir()
    schema = row_schema(pa.schema([("sha256", pa.string())]))
    files = 0
    with pq.ParquetFile(run.tasks) as stored:
        for batch in stored.iter_batches(2 * ROWS_PER_FILE):
            tasks = pa.Table.from_batches([batch]).slice(0, ROWS_PER_FILE)
            path = run.textures / f"part-{files:05d}-0.parquet"
            with open_row_writer(Path(str(path)), schema) as writer:
                writer.write_table(make_rows(tasks, schema), row_group_size=group_rows)
            files += 1
    return files


def make_rows(tasks: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of `schema` for some tasks, null where a row may be."""
    now = datetime.datetime.now(datetime.UTC)
    standing: dict[str, Any] = {"attempts": 1, "status": "ok", "finished_at": now}
    columns = []
    for field in schema:
        if field.name in tasks.column_names:
            columns.append(tasks[field.name].cast(field.type))
        elif field.name in REQUIRED_COLUMNS:
            value = pa.scalar(standing.get(field.name, "x"), field.type)
            columns.append(pa.repeat(value, len(tasks)))
        else:
            columns.append(pa.nulls(len(tasks), field.type))
    return pa.table(columns, schema=schema)


def measure(manifest: Path, out: Path) -> StartUp:
    """`start` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(start, manifest, out).result()


def start(manifest: Path, out: Path) -> StartUp:
    """Start a run in this process, up to its executor."""
    config = RunConfig.model_validate({"weights": "random:0", "size": 64}).resolved()
    found: dict[str, int] = {}

    def stop(run: Any, config: Any, record: Any, pending: int, terminal: Any) -> NoReturn:
        found.update(left=pending, peak_bytes=peak_bytes())
        raise _StartedError

    begun, cpu_begun = time.monotonic(), time.process_time()
    with (
        patch.object(pipeline.run, "_execute", stop),
        contextlib.suppress(_StartedError),
    ):
        pipeline.run.run_manifest(manifest, out, config, Console(file=io.StringIO()))
    seconds, cpu_s = time.monotonic() - begun, time.process_time() - cpu_begun
    run = RunDirectory(out)
    return StartUp(
        tasks=pq.read_metadata(str(run.tasks)).num_rows,
        files=len(list(run.textures.glob("*.parquet"))),
        seconds=seconds,
        cpu_s=cpu_s,
        **found,
    )


def peak_bytes() -> int:
    """Largest resident set of this process so far; `ru_maxrss` would count its parent's, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: this measurement needs Linux")


def table_row(start: StartUp, kind: str) -> str:
    """One line of the table."""
    state = "fresh" if start.left == start.tasks else f"resumed, {start.left:,} left"
    cells = [
        f"{start.tasks:,}",
        f"{state}, {kind}",
        f"{start.files:,}",
        f"{start.seconds:.1f}",
        f"{start.cpu_s:.1f}",
        f"{1e6 * start.cpu_s / start.tasks:.1f}",
        f"{start.peak_bytes / GIB:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 5_000_000])
    parser.add_argument("--format", choices=("csv", "parquet"), default="parquet")
    parser.add_argument("--fresh-only", action="store_true", help="commit nothing, resume nothing")
    parser.add_argument(
        "--group-rows", type=int, default=ROWS_PER_FILE, help="of committed files, finalize: 64"
    )
    arguments = parser.parse_args()
    print("\n".join(describe_environment()))
    print(f"* load when it began: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"* row groups of committed files: {arguments.group_rows} rows; finalize writes", end=" ")
    print(f"{ROW_GROUP_ROWS}\n\n| {' | '.join(COLUMNS)} |\n| --- | --- |{' ---: |' * 5}")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder) / f"manifest.{arguments.format}"
            write_manifest(manifest, rows)
            out = Path(folder) / "run"
            print(table_row(measure(manifest, out), arguments.format), flush=True)
            if not arguments.fresh_only:
                commit_half(RunDirectory(out), group_rows=arguments.group_rows)
                print(table_row(measure(manifest, out), arguments.format), flush=True)


if __name__ == "__main__":
    main()
