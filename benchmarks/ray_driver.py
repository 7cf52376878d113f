"""What Ray and its driver spend on blocks: the job of `pipeline.job`, with actors that sleep."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import ray

import pipeline.job
from benchmarks.sleeping import SleepingActor, prepare_sleeping
from pipeline.config import RunConfig
from pipeline.pending import write_pending
from pipeline.rundir import RunDirectory
from pipeline.tasks import expand_tasks

CPUS = 4
"""That Ray is told of: enough for its own tasks beside the actors, which only sleep."""
HELPERS = ("raylet", "gcs_server")
"""Processes of Ray that serve all others of a machine."""


@dataclass(frozen=True, kw_only=True)
class DriverCost:
    """What a job cost beside its actors.

    Attributes:
        actors, blocks, rows_per_block: Of the job.
        seconds: By the clock, from its first line to its last.
        driver_s: CPU time of the driver's process.
        helpers_s: Of HELPERS.
        bytes_per_task: In the object store: pixels and columns of a prepared task, bytes.
    """

    actors: int
    blocks: int
    rows_per_block: int
    seconds: float
    driver_s: float
    helpers_s: float
    bytes_per_task: float


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """A Ray of its own, as a run starts it, but with CPUS."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray warns on the standard output of having more workers than cores.
    with contextlib.redirect_stdout(sys.stderr):
        ray.init("local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()


def measure_driver(actors: int, blocks: int, rows_per_block: int, size_px: int) -> DriverCost:
    """Drive so many blocks through actors that sleep; `local_ray` is there."""
    count = blocks * rows_per_block
    ids = [f"x{number:08d}" for number in range(count)]
    exemplars = pa.table({"exemplar_id": ids, "path": [f"{name}.jpg" for name in ids]})
    tasks = expand_tasks(exemplars, crops=1, variations=1, seed=0)
    attempts = pa.array([0] * count, pa.int32())
    config = RunConfig.model_validate(
        {"weights": "random:0", "size": size_px, "device": "cpu", "actors": actors}
    ).resolved()
    block = tasks.slice(0, rows_per_block)
    job = pipeline.job.Job(
        pending=count, session="", stopping=lambda: False, take_signals=lambda: None
    )
    with tempfile.TemporaryDirectory() as folder, _stand_ins(size_px, rows_per_block):
        run = RunDirectory(Path(folder))
        run.create()
        write_pending(run, tasks.append_column("attempts", attempts))
        helpers_s, driver_s = _helpers_seconds(), time.process_time()
        begun = time.monotonic()
        pipeline.job.run_ray_job(run, config, folder, job)
        done = run.log.read_text().count('"block"')
        if done < blocks:
            raise RuntimeError(f"{done} blocks came back, expected {blocks}")
        return DriverCost(
            actors=actors,
            blocks=done,
            rows_per_block=rows_per_block,
            seconds=time.monotonic() - begun,
            driver_s=time.process_time() - driver_s,
            helpers_s=_helpers_seconds() - helpers_s,
            bytes_per_task=prepare_sleeping(block, size_px).nbytes / len(block),
        )


@contextlib.contextmanager
def _stand_ins(size_px: int, rows_per_block: int) -> Iterator[None]:
    """In the job, what needs torch or a device replaced; all else is real."""
    with (
        patch.object(pipeline.job, "MeteredActor", SleepingActor),
        patch.object(pipeline.job, "prepare_block", prepare_sleeping),
        patch.object(pipeline.job, "ExemplarSource", lambda root, config: size_px),
        patch.object(pipeline.job, "choose_rows_per_block", lambda *_, **__: rows_per_block),
    ):
        yield


def _helpers_seconds() -> float:
    """CPU time so far of Ray's own processes that this one has started."""
    ticks = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # proc(5): number (name) state parent ..., user and system time as fields 14 and 15.
            name, _, rest = place.read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            if name in HELPERS and int(fields[1]) == os.getpid():
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
