"""What finalize takes, by the number of rows and by their order.

    python -m benchmarks.finalize_scale

Rows lie in shards as actors leave them, in the manifest's order: sorted, so that neighbours in a
shard are neighbours in the end, or shuffled, so that none are. Rows have a layout and no picture,
whose copying is a matter of bandwidth. Each finalize runs in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import pipeline.side_by_side
from benchmarks.environment import describe_environment
from benchmarks.start_up import GIB, exemplar_batches, make_rows, peak_bytes
from pipeline.finalize import finalize
from pipeline.resume import write_tasks
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema
from pipeline.shards import commit_rows
from pipeline.side_by_side import LOCAL_THREADS
from pipeline.tasks import expand_tasks
from texsynth.copies import LAYOUT_SIDE


@dataclass(frozen=True, kw_only=True)
class Finalizing:
    """One finalize: clock, CPU and largest resident set, of which `base_bytes` before it began."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    base_bytes: int


def write_shards(run: RunDirectory, rows: int, rows_per_shard: int, *, shuffled: bool) -> None:
    """Commit so many rows; the order of tasks is that of categories, or random."""
    exemplars = pa.concat_tables(exemplar_batches(rows)).drop_columns(["sha256"])
    exemplars = exemplars.sort_by("exemplar_id")
    generator = np.random.default_rng(0)
    if shuffled:
        exemplars = exemplars.take(generator.permutation(rows))
    tasks = expand_tasks(exemplars, crops=1, variations=1, seed=0)
    write_tasks(run, tasks)
    schema = row_schema()
    place = schema.get_field_index("layout")
    for start in range(0, rows, rows_per_shard):
        part = make_rows(tasks.slice(start, rows_per_shard), schema)
        layouts = generator.integers(-127, 128, (len(part), LAYOUT_SIDE**2), np.int8)
        column = pa.array([layout.tobytes() for layout in layouts], pa.binary())
        commit_rows(run, part.set_column(place, schema.field(place), column))


def measure(run: RunDirectory, threads: int) -> Finalizing:
    """Finalize in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_finalize, Path(str(run.path)), threads).result()


def _finalize(path: Path, threads: int) -> Finalizing:
    pipeline.side_by_side.LOCAL_THREADS = threads
    run = RunDirectory(path)
    task_ids = pq.read_table(str(run.tasks), columns=["task_id"])["task_id"]
    base_bytes = peak_bytes()
    begun, cpu_begun = time.monotonic(), time.process_time()
    finalized = finalize(run, task_ids)
    if finalized.missing or finalized.rows != len(task_ids):
        raise RuntimeError(f"{finalized.rows} rows, expected {len(task_ids)}")
    return Finalizing(
        seconds=time.monotonic() - begun,
        cpu_s=time.process_time() - cpu_begun,
        peak_bytes=peak_bytes(),
        base_bytes=base_bytes,
    )


def main() -> None:
    """Print the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--shuffled-rows", type=int, nargs="*", default=[5_000])
    parser.add_argument("--rows-per-shard", type=int, default=32)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, LOCAL_THREADS])
    arguments = parser.parse_args()
    print("\n".join(describe_environment()))
    print(f"* load when it began: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"* {arguments.rows_per_shard} rows per shard, no pictures\n")
    columns = (
        "rows",
        "order",
        "threads",
        "seconds",
        "CPU s",
        "CPU ms/row",
        "peak GiB",
        "of it per row, bytes",
    )
    print(f"| {' | '.join(columns)} |\n| ---: | --- |{' ---: |' * 6}")
    orders = [(rows, False) for rows in arguments.rows]
    orders += [(rows, True) for rows in arguments.shuffled_rows]
    for (rows, shuffled), threads in itertools.product(orders, arguments.threads):
        with tempfile.TemporaryDirectory() as folder:
            run = RunDirectory(Path(folder))
            run.create()
            write_shards(run, rows, arguments.rows_per_shard, shuffled=shuffled)
            done = measure(run, threads)
        cells = [
            f"{rows:,}",
            "shuffled" if shuffled else "sorted",
            str(threads),
            f"{done.seconds:.1f}",
            f"{done.cpu_s:.1f}",
            f"{1e3 * done.cpu_s / rows:.2f}",
            f"{done.peak_bytes / GIB:.2f}",
            f"{(done.peak_bytes - done.base_bytes) / rows:,.0f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
