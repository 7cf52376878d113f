"""The Ray Data job: pending tasks in, small rows out; the actors commit what they make.

The only file that imports ray.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

# Read when ray is imported: what still pulls blocks after a shutdown must not start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import ray
import ray.data
import ray.exceptions
from ray.util.metrics import Counter, Histogram

from pipeline.actor import SynthesisActor
from pipeline.attempts import load_attempts, running_here
from pipeline.capacity import count_cpu_actors, estimate_actor_bytes
from pipeline.config import RunConfig
from pipeline.isolation import prepare_block
from pipeline.prepare import ExemplarSource
from pipeline.rundir import RunDirectory
from pipeline.runlog import RunLog
from pipeline.session import POLL_SECONDS as SESSION_POLL_SECONDS
from pipeline.spinning import bound_spinning
from pipeline.tail import CommittedTasks
from texsynth.config import ConfigError
from texsynth.memory import CPU_LANES, MOST_LANES

PREPARE_CPUS = 0.25
"""Of a preparing task: it shares a core with the actor that it feeds."""
SPARE_CPUS = 1.0
"""Left to Ray Data's own tasks when actors run on CPUs: without a whole one nothing ever starts."""
LANE_FULLS_PER_BLOCK = 8
"""Tasks of a block at most, in lanes: lanes are refilled within a block, so its tail runs on fewer.
A lost actor loses no more than what it has in flight, however long its block is."""
BLOCK_BYTES = 2**26
"""Pixels of a block at most, unless one lane-full has more; Ray Data splits what is twice that."""
PREPARED_ROWS = 32
"""Tasks prepared at once: what the watchdog waits for, and what an image that kills its process
sends into processes of their own."""
POLL_SECONDS = 0.2
"""Between two looks of the driver at its signals."""
STOP_GRACE_SECONDS = 120.0
"""After which a driver that is to stop no longer waits for actors that do not come to rest."""
CHAINED = "The above exception was the direct cause of the following exception:"
"""Between the exceptions of a traceback, the innermost first."""
NAMED_ERROR = re.compile(r"[A-Za-z_][\w.]*: ")
SECONDS_BOUNDARIES = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class JobError(OSError):
    """Ray could not do the job to its end."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the driver of a run tells its job.

    Attributes:
        pending: Number of tasks in `pending.parquet`.
        session: Id of the session.
        stopping: Whether the session was asked to stop.
        take_signals: Called when Ray has started and put signal handlers of its own.
    """

    pending: int
    session: str
    stopping: Callable[[], bool]
    take_signals: Callable[[], None]


def run_ray_job(run: RunDirectory, config: RunConfig, root: str, job: Job) -> None:
    """Do the tasks in `pending.parquet` on a Ray cluster, or on a local one.

    Args:
        run: run directory, with `run.json` and `pending.parquet`, on storage that all nodes see.
        config: resolved.
        root: of the manifest's paths.
        job: how many tasks there are, and whether they are to be given up.

    Raises:
        JobError: if an actor cannot be built, or Ray gives up otherwise.
        ConnectionError: if the cluster cannot be reached.
    """
    begun_here = not ray.is_initialized()
    try:
        if begun_here:
            _start_ray(config.address)
        job.take_signals()
        _configure_data()
        _consume(_make_dataset(run, config, root, job.pending), run, job)
    except SystemExit:
        # What Ray makes of SIGTERM while it starts; nothing has begun.
        job.take_signals()
        signal.raise_signal(signal.SIGTERM)
    except ray.exceptions.RayError as error:
        raise JobError(
            f"Ray gave up: {_innermost(error)}; committed rows are kept, and the same command goes "
            "on from them"
        ) from error
    finally:
        if begun_here:
            ray.shutdown()


def _make_dataset(
    run: RunDirectory, config: RunConfig, root: str, pending: int
) -> ray.data.Dataset:
    """Pending tasks, prepared on CPUs, through the actors; its rows are those of SUMMARY."""
    actors, resources = _plan_actors(config)
    actors = min(actors, pending)
    on_gpu = "num_gpus" in resources
    rows_per_block = _rows_per_block(config, pending, actors, gpu=on_gpu)
    run = RunDirectory(run.path.resolve())
    tasks = ray.data.read_parquet(str(run.pending), num_cpus=PREPARE_CPUS).repartition(
        target_num_rows_per_block=rows_per_block, strict=True
    )
    prepared = tasks.map_batches(
        partial(prepare_block, source=ExemplarSource(root, config), run=run, watched=True),
        batch_format="pyarrow",
        batch_size=min(rows_per_block, PREPARED_ROWS),
        num_cpus=PREPARE_CPUS,
    )
    return prepared.map_batches(
        MeteredActor,
        fn_constructor_kwargs={
            "run_path": str(run.path),
            # Ray shows an actor its own GPU only, whatever its number on the machine.
            "device": "cuda" if on_gpu else "cpu",
            "threads": None if on_gpu else _threads_per_actor(actors),
            "watched": True,
        },
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        batch_format="pyarrow",
        batch_size=rows_per_block,
        **resources,
    )


def _consume(dataset: ray.data.Dataset, run: RunDirectory, job: Job) -> None:
    """Pull all blocks through the actors, or leave them once the actors have come to rest.

    The pulling is a thread's: so the main one is free for signals, and no signal breaks into Ray.
    """
    errors: list[BaseException] = []
    log = RunLog(run)

    def pull() -> None:
        try:
            batches = dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
            for summary in batches:
                for block in summary["block"].slice(0, 1).to_pylist():
                    log.event("block", **block)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=pull, daemon=True, name="blocks")
    thread.start()
    while thread.is_alive() and not job.stopping():
        thread.join(POLL_SECONDS)
    if thread.is_alive():
        _await_rest(run, job, thread)
        return
    if errors and not job.stopping():
        raise errors[0]


def _await_rest(run: RunDirectory, job: Job, thread: threading.Thread) -> None:
    """Wait until the actors have nothing in flight, for a while at most."""
    committed = CommittedTasks(run)
    give_up_at = time.monotonic() + STOP_GRACE_SECONDS
    # An actor that has not heard of the stop yet may still begin something.
    quiet_since: float | None = None
    while thread.is_alive() and time.monotonic() < give_up_at:
        attempts, _ = load_attempts(run)
        left = [a for a in attempts.values() if not committed.has(a.task_id, a.number)]
        if running_here(left, job.session):
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > 2 * SESSION_POLL_SECONDS:
            return
        thread.join(POLL_SECONDS)


class MeteredActor(SynthesisActor):
    """An actor that counts its rows for Ray's Prometheus endpoint."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        tags = ("status",)
        self._tasks = Counter("texsynth_tasks", "Tasks that ended.", tag_keys=tags)
        self._evaluations = Counter(
            "texsynth_evaluations", "Evaluations at full size spent on tasks that ended."
        )
        self._seconds = Histogram(
            "texsynth_task_seconds",
            "Time of a task on a lane, s.",
            boundaries=SECONDS_BOUNDARIES,
            tag_keys=tags,
        )
        self._in_synthesis = Counter(
            "texsynth_synthesis_seconds", "Time inside syntheses, s; else the device is idle."
        )

    def row_ended(self, row: dict[str, Any]) -> None:
        """Count a row by its status."""
        tags = {"status": row["status"]}
        self._tasks.inc(1, tags)
        if row.get("seconds") is not None:
            self._seconds.observe(row["seconds"], tags)
        if row.get("evaluations"):
            self._evaluations.inc(row["evaluations"])

    def block_ended(self, block: Mapping[str, Any]) -> None:
        """Count the time in syntheses; the driver, which gets the summary, writes the log."""
        if block["synthesis_seconds"]:
            self._in_synthesis.inc(block["synthesis_seconds"])


def _innermost(error: BaseException) -> str:
    """What a worker raised, in one line: Ray has it as text, beside exceptions of its own."""
    parts = str(error).split(CHAINED)
    ours = [part for part in parts if "ray.exceptions." not in part]
    lines = [line.strip() for line in (ours or parts)[-1].splitlines() if line.strip()]
    line = lines[-1] if lines else repr(error)
    return line if NAMED_ERROR.match(line) else f"{type(error).__name__}: {line}"


def _start_ray(address: str | None) -> None:
    """Connect to a cluster, or start a local one that prints nothing of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        bound_spinning()
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
    # What goes wrong comes as an exception, which says it once.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _plan_actors(config: RunConfig) -> tuple[int, dict[str, Any]]:
    """Number of actors and what each asks of Ray: a GPU, or a share of the CPUs.

    Raises:
        ConfigError: if more GPUs are asked for than a local Ray has; a cluster may yet grow. Or if
            a cluster has nothing yet that says which device is meant.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if config.device != "cpu" and (gpus or config.device is not None):
        actors = config.actors or max(gpus, 1)
        if config.address is None and actors > gpus:
            raise ConfigError(f"actors is {actors}, expected at most {gpus}, one for each GPU here")
        return actors, {"num_gpus": 1}
    nodes = _cpu_nodes()
    if config.device is None and not nodes:
        raise ConfigError("device is None and no node has CPUs or GPUs yet, expected cpu or cuda")
    if config.actors is None:
        # Each has its memory reserved, so that none is put where only cores are left.
        shares = [max(cpus - SPARE_CPUS, cpus / 4) / max(1, int(cpus)) for cpus, _ in nodes]
        share = math.floor(1e4 * min(shares)) / 1e4
        memory = min(estimate_actor_bytes(config), int(max(memory for _, memory in nodes)))
        return count_cpu_actors(config, nodes), {"num_cpus": share, "memory": memory}
    actors, cpus = config.actors, _least_cpus()
    share = (cpus - SPARE_CPUS if cpus > SPARE_CPUS else cpus / 4) / _actors_on_a_node(actors)
    # Ray takes fractions below 1 to four digits, and whole numbers above.
    return actors, {"num_cpus": math.floor(share) if share >= 1 else math.floor(1e4 * share) / 1e4}


def _threads_per_actor(actors: int) -> int:
    return max(1, int(_least_cpus()) // _actors_on_a_node(actors))


def _actors_on_a_node(actors: int) -> int:
    return math.ceil(actors / max(1, len(_cpu_nodes())))


def _cpu_nodes() -> list[tuple[float, float]]:
    """CPUs of every node that has any, and its memory as Ray counts it, bytes."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node["CPU"], node.get("memory", 0.0)) for node in nodes if node.get("CPU")]


def _least_cpus() -> float:
    """CPUs of the smallest node that has any."""
    return min((cpus for cpus, _ in _cpu_nodes()), default=1.0)


def _rows_per_block(config: RunConfig, pending: int, actors: int, *, gpu: bool) -> int:
    """Some lane-fulls, such that every actor gets as many blocks as the others, all of one size."""
    lanes = config.lanes
    if lanes == "auto":
        # What an actor will choose is not known yet: with fewer lanes its blocks only last longer.
        lanes = MOST_LANES if gpu else CPU_LANES
    most = max(lanes, min(LANE_FULLS_PER_BLOCK * lanes, BLOCK_BYTES // (3 * config.size**2)))
    tasks_per_actor = math.ceil(pending / actors)
    blocks_per_actor = math.ceil(tasks_per_actor / most)
    return math.ceil(tasks_per_actor / blocks_per_actor)
