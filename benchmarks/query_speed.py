"""What questions to a large finished run cost: `python -m benchmarks.query_speed`.

Makes a directory of as many rows as asked for, with random numbers under the real schema and images
for some rows, and times every named query in this process and as a whole command, with the peak
memory of that command's own process; and one image by its task id, each of another row group.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.environment import describe_environment
from benchmarks.synthetic_run import SyntheticRun
from pipeline import load_images
from pipeline.named_queries import QUERIES
from pipeline.query_output import write_selection
from pipeline.rundir import RunDirectory
from pipeline.shards import ROW_GROUP_ROWS
from pipeline.sql import open_metrics

GOAL_QUERY_S, GOAL_MEMORY_MB, GOAL_IMAGE_S = 1.0, 500, 0.05
EVERYTHING = "every column, as Parquet"
# VmHWM is of the program alone; what getrusage says of a child begins with its parent's memory.
COMMAND = """
import sys
from pipeline.cli import main
try:
    main()
finally:
    lines = open("/proc/self/status").read().splitlines()
    sys.stderr.write(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""


def time_calls(call: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Seconds of a call, by the clock and of CPU: medians of as many."""
    clock, cpu = [], []
    for _ in range(repeat):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        call()
        clock.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - cpu_begun)
    return median(clock), median(cpu)


def ask(run: RunDirectory, sql: str, folder: Path) -> None:
    """Open the run, ask, and write the table."""
    with open_metrics([run]) as database:
        write_selection(database.select(sql), "table", folder / "answer.txt")


def run_command(run: RunDirectory, *options: str) -> tuple[float, float]:
    """Seconds and peak memory, MB, of `texsynth query`, which must succeed."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", COMMAND, "query", str(run.path), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - begun, int(done.stderr) * 1024 / 1e6


def time_images(run: RunDirectory, images: int) -> list[float]:
    """Seconds that it takes to load one image by its task id, for one of every row group."""
    seconds = []
    for path in sorted(Path(str(run.textures)).glob("*.parquet"))[: -(-images // ROW_GROUP_ROWS)]:
        task_id = find_task_with_image(path)
        begun = time.perf_counter()
        load_images(run, [task_id])
        seconds.append(time.perf_counter() - begun)
    return seconds


def find_task_with_image(path: Path) -> str:
    """The first task of a file of textures whose row has an image."""
    with pq.ParquetFile(path) as file:
        table: pa.Table = file.read_row_group(0, columns=["task_id", "image"])
    stored = table.filter(pc.is_valid(table["image"]))
    task_id: str = stored["task_id"][0].as_py()
    return task_id


def measure_queries(run: RunDirectory, folder: Path, repeat: int) -> list[str]:
    """A table with a row per named query, and one for a query that reads everything."""
    lines = [
        "| query | in a process at work, s | of it CPU, s | whole command, s | its peak, MB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    warm: list[tuple[float, float]] = []
    commands: list[tuple[float, float]] = []
    for query in QUERIES:
        warm.append(time_calls(partial(ask, run, query.sql, folder), repeat))
        commands.append(run_command(run, "--named", query.name))
        numbers = f"{warm[-1][0]:.2f} | {warm[-1][1]:.2f} | {_describe_command(commands[-1])}"
        lines.append(f"| {query.name} | {numbers} |")
    output = str(folder / "all.parquet")
    options = ("SELECT * FROM metrics", "--format", "parquet", "--output", output)
    commands.append(run_command(run, *options))
    lines.append(f"| {EVERYTHING} | | | {_describe_command(commands[-1])} |")
    memory = max(megabytes for _, megabytes in commands)
    return [
        f"* slowest named query: {max(warm)[0]:.2f} s by the clock, goal {GOAL_QUERY_S} s",
        f"* highest peak memory: {memory:.0f} MB, goal {GOAL_MEMORY_MB} MB",
        "",
        *lines,
    ]


def _describe_command(measured: tuple[float, float]) -> str:
    seconds, megabytes = measured
    return f"{seconds:.1f} | {megabytes:.0f}"


def describe_images(seconds: list[float]) -> str:
    """First, median and worst of the later ones."""
    later = seconds[1:] or seconds
    return (
        f"* one image by id: median {median(later) * 1e3:.0f} ms, worst {max(later) * 1e3:.0f} ms "
        f"of {len(later)}, the first {seconds[0] * 1e3:.0f} ms; goal {GOAL_IMAGE_S * 1e3:.0f} ms"
    )


def main() -> None:
    """Print the times and the memory, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=1280, help="rows with an image")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--run", type=Path, help="made if it is not there, and kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthetic = SyntheticRun(rows=arguments.rows, images=arguments.images)
        path = arguments.run or folder / "run"
        run = RunDirectory(path) if path.exists() else synthetic.write(path)
        size = run.metrics.stat().st_size / 1e6
        lines = [
            "# Questions to a large run",
            "",
            *describe_environment(),
            f"* {arguments.rows:,} rows, `metrics.parquet` {size:.0f} MB, {arguments.images:,} "
            f"images of noise, 256 px; medians of {arguments.repeat}",
            describe_images(time_images(run, arguments.images)),
            *measure_queries(run, folder, arguments.repeat),
        ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
