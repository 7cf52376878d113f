"""What a second `texsynth run` on a finished directory costs: `python -m benchmarks.finished_run`.

Makes a directory with as many rows as asked for, each with a small image, by the code that commits
and finalizes real ones, and times the command line on it, beside the bare import of what it needs.
"""

from __future__ import annotations

import argparse
import datetime
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.environment import describe_environment
from pipeline.config import RunConfig
from pipeline.finalize import finalize
from pipeline.preflight import check_run
from pipeline.resume import write_run_record, write_tasks
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows

OPTIONS = {"weights": "random:0", "size": 64, "variations": 2}
ROWS_PER_SHARD = 500
IMPORTS = "import torch, pyarrow.parquet, pandas, pydantic, cyclopts"


def make_finished_run(folder: Path, rows: int) -> list[str]:
    """A finished run directory; gives the arguments of the command that made it."""
    manifest = folder / "manifest.csv"
    lines = [f"x{i:06d},x{i:06d}.png,c{i % 47}" for i in range(rows // 2)]
    manifest.write_text("\n".join(["exemplar_id,path,category", *lines]) + "\n")
    config = RunConfig.model_validate(OPTIONS).resolved()
    run = RunDirectory(folder / "run")
    checked = check_run(manifest, config, run)
    tasks, record = checked.tasks.read(), checked.record
    run.create()
    write_tasks(run, tasks)
    write_run_record(run, record)
    png = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(png, "PNG")
    values = {
        "attempts": 1,
        "status": "ok",
        "image": {"bytes": png.getvalue(), "path": "x.png"},
        "finished_at": datetime.datetime.now(datetime.UTC),
        "preset": config.preset,
        "config_fingerprint": record.fingerprint,
        "weights": record.weights,
        "weights_sha256": record.weights_sha256,
        "texsynth_version": record.versions["texsynth"],
        "torch_version": record.versions["torch"],
    }
    schema = row_schema(record.carried)
    for start in range(0, len(tasks), ROWS_PER_SHARD):
        part = tasks.slice(start, ROWS_PER_SHARD).to_pylist()
        commit_rows(run, rows_to_table([task | values for task in part], schema))
    finalize(run, tasks["task_id"])
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
    return ["run", str(manifest), "--out", str(run.path), *options]


def time_command(command: list[str]) -> float:
    """Seconds of a command that must succeed."""
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def main() -> None:
    """Print the times, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print("\n".join(describe_environment()) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        texsynth = [sys.executable, "-c", "from pipeline.cli import main; main()"]
        run = [*texsynth, *make_finished_run(Path(folder), arguments.rows)]
        print(f"| rows | second run, s | imports alone, s |\n| {' | '.join(['---:'] * 3)} |")
        for _ in range(arguments.repeat):
            seconds = (time_command(run), time_command([sys.executable, "-c", IMPORTS]))
            print(f"| {arguments.rows:,} | {seconds[0]:.1f} | {seconds[1]:.1f} |")


if __name__ == "__main__":
    main()
