"""The Ray Data job: pending tasks in, small rows out; the actors commit what they make.

Beside `pipeline.cluster` the only file that imports ray.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

# Read when ray is imported: what still pulls blocks after a shutdown must not start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import ray
import ray.data
import ray.exceptions

from pipeline.attempts import load_attempts, running_here
from pipeline.cluster.connection import configure_data, start_ray
from pipeline.cluster.metered_actor import MeteredActor
from pipeline.cluster.nodes import list_nodes
from pipeline.cluster.workers import WorkerWatch
from pipeline.config import RunConfig
from pipeline.isolation import prepare_block
from pipeline.object_store import StorageError
from pipeline.placement import ActorPlan, choose_rows_per_block, describe_plan, plan_actors
from pipeline.prepare import ExemplarSource
from pipeline.rundir import RunDirectory
from pipeline.runlog import RunLog
from pipeline.session import POLL_SECONDS as SESSION_POLL_SECONDS
from pipeline.storage import arrow_place
from pipeline.tail import CommittedTasks

PREPARE_CPUS = 0.25
"""Of a preparing task: it shares a core with the actor that it feeds."""
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
CHECK_HINT = (
    "; `texsynth cluster check` with --address, --manifest and --out says what each node lacks"
)
"""Said on a cluster: credentials, weights and folders of the driver need not be on its nodes."""

logger = logging.getLogger(__name__)


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
        say: Takes a line for people; by default the log of this module.
    """

    pending: int
    session: str
    stopping: Callable[[], bool]
    take_signals: Callable[[], None]
    say: Callable[[str], None] = logger.warning


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
        ConfigError: if its machines are not what the configuration asks for.
        WorkersError: if a cluster has no node for an actor for too long.
    """
    begun_here = not ray.is_initialized()
    try:
        if begun_here:
            start_ray(config.address)
        job.take_signals()
        configure_data()
        _do(run, config, root, job)
    except SystemExit:
        # What Ray makes of SIGTERM while it starts; nothing has begun.
        job.take_signals()
        signal.raise_signal(signal.SIGTERM)
    except ray.exceptions.RayError as error:
        hint = "" if config.address is None else CHECK_HINT
        raise JobError(
            f"Ray gave up: {_innermost(error)}; committed rows are kept, and the same command goes "
            f"on from them{hint}"
        ) from error
    finally:
        if begun_here:
            ray.shutdown()


def _do(run: RunDirectory, config: RunConfig, root: str, job: Job) -> None:
    """Plan the actors by the nodes that are there, and pull the tasks through them."""
    if config.address is None:
        plan = plan_actors(config, list_nodes(), job.pending)
        _consume(_make_dataset(run, config, root, plan, job.pending), run, job)
        return
    watch = WorkerWatch(config, job.say, RunLog(run))
    nodes = watch.await_workers(job.stopping)
    if job.stopping():
        return
    plan = plan_actors(config, nodes, job.pending)
    job.say(describe_plan(plan, nodes))
    with watch.watching(plan):
        _consume(_make_dataset(run, config, root, plan, job.pending), run, job, watch)


def _make_dataset(
    run: RunDirectory, config: RunConfig, root: str, plan: ActorPlan, pending: int
) -> ray.data.Dataset:
    """Pending tasks, prepared on CPUs, through the actors; its rows are those of SUMMARY."""
    rows_per_block = choose_rows_per_block(config, pending, plan)
    run = RunDirectory(run.path.resolve())
    place, filesystem = arrow_place(run.pending)
    # Streaming: with a number of blocks it would be a barrier.
    tasks = ray.data.read_parquet(place, filesystem=filesystem, num_cpus=PREPARE_CPUS).repartition(
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
            "device": "cuda" if plan.on_gpu else "cpu",
            "threads": plan.threads,
            "watched": True,
        },
        compute=ray.data.ActorPoolStrategy(
            min_size=plan.least, max_size=plan.most, max_tasks_in_flight_per_actor=1
        ),
        batch_format="pyarrow",
        batch_size=rows_per_block,
        **plan.resources,
    )


def _consume(
    dataset: ray.data.Dataset, run: RunDirectory, job: Job, watch: WorkerWatch | None = None
) -> None:
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
        if watch is not None and watch.error is not None:
            raise watch.error
    if thread.is_alive():
        _await_rest(run, job, thread)
        return
    if errors and not job.stopping():
        raise errors[0]


def _await_rest(run: RunDirectory, job: Job, thread: threading.Thread) -> None:
    """Wait until the actors have nothing in flight, for a while at most."""
    # Of rows that are there already the actors that live have ended the attempts; one that died on
    # another machine has not, and is not known to be dead.
    committed = CommittedTasks(run, skip_present=True)
    everything: CommittedTasks | None = None
    give_up_at = time.monotonic() + STOP_GRACE_SECONDS
    # An actor that has not heard of the stop yet may still begin something.
    quiet_since: float | None = None
    while thread.is_alive() and time.monotonic() < give_up_at:
        try:
            attempts, _ = load_attempts(run)
            left = [a for a in attempts.values() if not committed.has(a.task_id, a.number)]
            left = running_here(left, job.session)
            if any(attempt.host != platform.node() for attempt in left):
                everything = everything or CommittedTasks(run)
                left = [a for a in left if not everything.has(a.task_id, a.number)]
        except StorageError:
            # Who does not answer now is asked again.
            thread.join(POLL_SECONDS)
            continue
        if left:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > 2 * SESSION_POLL_SECONDS:
            return
        thread.join(POLL_SECONDS)


def _innermost(error: BaseException) -> str:
    """What a worker raised, in one line: Ray has it as text, beside exceptions of its own."""
    parts = str(error).split(CHAINED)
    ours = [part for part in parts if "ray.exceptions." not in part]
    lines = [line for line in (ours or parts)[-1].splitlines() if line.strip()]
    # Below the error Ray Data gives advice about its own settings.
    named = [line for line in lines if NAMED_ERROR.match(line)]
    if named:
        return named[-1].strip()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else repr(error)}"
