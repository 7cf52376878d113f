"""The Ray Data job: pending tasks in, small rows out; the actors commit what they make.

The only file that imports ray.
"""

from __future__ import annotations

import logging
import math
import os
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from pipeline.actor import SynthesisActor
from pipeline.config import RunConfig
from pipeline.prepare import ExemplarSource, prepare_tasks
from pipeline.rundir import RunDirectory

PREPARE_CPUS = 0.25
"""Of a preparing task: it shares a core with the actor that it feeds."""
SPARE_CPUS = 1.0
"""Left to Ray Data's own tasks when actors run on CPUs: without a whole one nothing ever starts."""
LANE_FULLS_PER_BLOCK = 4
"""Tasks of a block, in lanes: lanes are refilled within a block, and a lost actor loses no more
than what it has in flight."""
ASSUMED_GPU_LANES = 16
"""Lanes of a GPU actor that chooses them itself, for the size of blocks."""


def run_ray_job(run: RunDirectory, config: RunConfig, root: str, pending: int) -> None:
    """Do the tasks in `pending.parquet` on a Ray cluster, or on a local one.

    Args:
        run: run directory, with `run.json` and `pending.parquet`, on storage that all nodes see.
        config: resolved.
        root: of the manifest's paths.
        pending: how many tasks there are.

    Raises:
        ray.exceptions.RayError: if the cluster cannot be reached or an actor cannot be built.
    """
    begun_here = not ray.is_initialized()
    if begun_here:
        _start_ray(config.address)
    try:
        _configure_data()
        actors, resources = _plan_actors(config)
        rows_per_block = _rows_per_block(config, pending, actors, gpu="num_gpus" in resources)
        tasks = ray.data.read_parquet(str(run.pending), num_cpus=PREPARE_CPUS).repartition(
            target_num_rows_per_block=rows_per_block, strict=True
        )
        prepared = tasks.map_batches(
            partial(_prepare_block, root=root, config=config),
            batch_format="pyarrow",
            batch_size=rows_per_block,
            num_cpus=PREPARE_CPUS,
        )
        threads = None if "num_gpus" in resources else _threads_per_actor(actors)
        done = prepared.map_batches(
            SynthesisActor,
            fn_constructor_kwargs={
                "run_path": str(run.path.resolve()),
                "device": config.device,
                "threads": threads,
            },
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            batch_format="pyarrow",
            batch_size=rows_per_block,
            **resources,
        )
        for _ in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            pass
    finally:
        if begun_here:
            ray.shutdown()


def _prepare_block(tasks: pa.Table, root: str, config: RunConfig) -> pa.Table:
    return prepare_tasks(tasks, ExemplarSource(root, config))


def _start_ray(address: str | None) -> None:
    """Connect to a cluster, or start a local one that prints nothing of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(
        address=address or "local",
        log_to_driver=address is not None,
        logging_level=logging.ERROR,
        **({} if address else {"include_dashboard": False}),
    )


def _configure_data() -> None:
    context = ray.data.DataContext.get_current()
    # A healthy block of long syntheses is silent for longer than Ray's half hour.
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _plan_actors(config: RunConfig) -> tuple[int, dict[str, Any]]:
    """Number of actors and what each asks of Ray: a GPU, or a share of the CPUs."""
    available = ray.cluster_resources()
    gpus = int(available.get("GPU", 0))
    if gpus and config.device != "cpu":
        return config.actors or gpus, {"num_gpus": 1}
    cpus = available.get("CPU", 1.0)
    actors = config.actors or 1
    share = max(0.1, (cpus - SPARE_CPUS) / actors)
    return actors, {"num_cpus": share if share < 1 else math.floor(2 * share) / 2}


def _threads_per_actor(actors: int) -> int:
    return max(1, (os.cpu_count() or 1) // actors)


def _rows_per_block(config: RunConfig, pending: int, actors: int, *, gpu: bool) -> int:
    """A few lane-fulls, but no less than one block for every actor."""
    lanes = config.lanes
    if lanes == "auto":
        lanes = ASSUMED_GPU_LANES if gpu else 4
    return max(1, min(LANE_FULLS_PER_BLOCK * lanes, math.ceil(pending / actors)))
