"""A run from manifest to finished directory: resolve, resume, execute, finalize."""

from __future__ import annotations

import datetime
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.console import Console

import texsynth
from pipeline.actor import SynthesisActor
from pipeline.committed import FileProblem, read_committed
from pipeline.config import RunConfig
from pipeline.finalize import finalize
from pipeline.manifest import Manifest, load_manifest
from pipeline.prepare import ExemplarSource, prepare_tasks
from pipeline.progress import RunProgress
from pipeline.resume import (
    RunMismatchError,
    RunRecord,
    load_run_record,
    pending_tasks,
    refuse_other_config,
    write_pending,
    write_run_record,
)
from pipeline.rundir import RunDirectory
from pipeline.schema import RESERVED_COLUMNS, row_schema
from pipeline.tasks import TASK_COLUMNS, expand_tasks

KEYS = ("task_id", "status", "attempt")


@dataclass(frozen=True)
class RunOutcome:
    """What a run directory holds after `run_manifest`.

    Args:
        run: the directory.
        tasks: of the manifest.
        done_now: tasks done by this call.
        statuses: number of rows by status.
        missing: tasks without a row.
        problems: files in the directory that could not be read.
    """

    run: RunDirectory
    tasks: int
    done_now: int
    statuses: dict[str, int]
    missing: int
    problems: tuple[FileProblem, ...]

    @property
    def complete(self) -> bool:
        """Every task has a row, and every row is a texture."""
        return self.missing == 0 and set(self.statuses) <= {"ok"}


def run_manifest(manifest_path: Path, out: Path, config: RunConfig, console: Console) -> RunOutcome:
    """Do what is left of a manifest's tasks, and finalize the run directory.

    Args:
        manifest_path: CSV or Parquet, see `manifests/README.md`.
        out: run directory; made if need be, continued if it is the same run's.
        config: resolved.
        console: for progress.

    Raises:
        ManifestError, ConfigError, TapError, WeightsError: before anything is written.
        RunMismatchError: if `out` belongs to another configuration.
        OSError: if the directory cannot be written; committed rows stay.
    """
    manifest = load_manifest(
        manifest_path, root=config.root, limit=config.limit, reserved=RESERVED_COLUMNS
    )
    tasks = expand_tasks(
        manifest.table, crops=config.crops, variations=config.variations, seed=config.seed
    )
    run = RunDirectory(out)
    record = _make_record(manifest, tasks, config)
    previous = load_run_record(run)
    if previous is not None:
        _refuse_other_run(previous, record)
    run.create()
    if previous is None or (previous.config, previous.manifest_sha256) != (
        record.config,
        record.manifest_sha256,
    ):
        write_run_record(run, record)
    committed, _ = read_committed(run, KEYS)
    pending = pending_tasks(tasks, committed, config.retry)
    if len(pending):
        write_pending(run, pending)
        with RunProgress(run, len(pending), console):
            _execute(run, config, manifest.root, pending)
    finished = finalize(run, tasks["task_id"])
    return _describe(run, tasks, len(pending), finished.missing, finished.problems)


def _execute(run: RunDirectory, config: RunConfig, root: str, pending: pa.Table) -> None:
    if config.executor == "ray":
        from pipeline.job import run_ray_job

        run_ray_job(run, config, root, len(pending))
        return
    actor = SynthesisActor(str(run.path), device=config.device)
    try:
        # A block of one process: enough tasks to refill lanes, few enough to hold in memory.
        for start in range(0, len(pending), INLINE_BLOCK_ROWS):
            block = pending.slice(start, INLINE_BLOCK_ROWS)
            actor(prepare_tasks(block, ExemplarSource(root, config)))
    finally:
        actor.close()


INLINE_BLOCK_ROWS = 64


def _make_record(manifest: Manifest, tasks: pa.Table, config: RunConfig) -> RunRecord:
    network = texsynth.load_network(config.weights, normalisation=config.normalisation)
    network.resolve_taps(config.resolve_synthesis().taps, config.size, config.size)
    carried = pa.schema([field for field in tasks.schema if field.name not in TASK_COLUMNS])
    row_schema(carried)
    return RunRecord(
        config=config.model_dump(mode="json"),
        identity=config.identity(network.weights_id, network.weights_sha256),
        versions={
            "texsynth": texsynth.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyarrow": pa.__version__,
        },
        weights=network.weights_id,
        weights_sha256=network.weights_sha256,
        manifest=str(manifest.path),
        manifest_sha256=hashlib.sha256(manifest.path.read_bytes()).hexdigest(),
        root=manifest.root,
        carried=carried,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _refuse_other_run(previous: RunRecord, record: RunRecord) -> None:
    refuse_other_config(previous, record)
    if not previous.carried.equals(record.carried):
        raise RunMismatchError(
            f"the run carries the manifest columns {previous.carried.names}, this manifest has "
            f"{record.carried.names} (or other types); take the same columns, or another directory"
        )


def _describe(
    run: RunDirectory,
    tasks: pa.Table,
    done_now: int,
    missing: tuple[str, ...],
    problems: tuple[FileProblem, ...],
) -> RunOutcome:
    committed, _ = read_committed(run, KEYS)
    ours = committed.filter(pc.is_in(committed["task_id"], tasks["task_id"]))
    counts = pc.value_counts(ours["status"].combine_chunks()).to_pylist()
    return RunOutcome(
        run=run,
        tasks=len(tasks),
        done_now=done_now,
        statuses={count["values"]: count["counts"] for count in counts},
        missing=len(missing),
        problems=problems,
    )
