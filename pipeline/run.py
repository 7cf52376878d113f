"""A run from manifest to finished directory: resolve, resume, execute, finalize."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import platform
from collections import Counter
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
from pipeline.prepare import PREPARED, ExemplarSource, prepare_tasks
from pipeline.progress import RunProgress
from pipeline.resume import (
    RunMismatchError,
    RunRecord,
    load_run_record,
    pending_tasks,
    refuse_other_config,
    write_pending,
    write_run_record,
    write_tasks,
)
from pipeline.rundir import RunDirectory
from pipeline.schema import RESERVED_COLUMNS, row_schema
from pipeline.tasks import TASK_COLUMNS, expand_tasks
from texsynth.config import ConfigError
from texsynth.synthesis import compute_levels, make_batches

THRESHOLDS = ("loss_threshold", "copy_displacement_threshold", "copy_layout_threshold")
"""Settings that change no texture but stand in every row beside the flags made with them."""
KEYS = ("task_id", "status", "attempts")
INLINE_BLOCK_ROWS = 64
"""Tasks prepared at once without Ray: enough to refill lanes, few enough to hold in memory."""


class RunDirectoryError(ValueError):
    """The output directory holds something else."""


@dataclass(frozen=True)
class RunOutcome:
    """What a run directory holds after `run_manifest`.

    Args:
        run: the directory.
        tasks: of the manifest.
        done_now: tasks done by this call.
        statuses: number of rows by status.
        errors: number of rows without a texture by what went wrong: type and first line.
        missing: tasks without a row.
        problems: files in the directory that could not be read.
    """

    run: RunDirectory
    tasks: int
    done_now: int
    statuses: dict[str, int]
    errors: dict[str, int]
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
        RunDirectoryError: if `out` is a file, or a folder of something else.
        OSError: if the directory cannot be written; committed rows stay.
    """
    run = RunDirectory(out)
    _refuse_other_folder(run)
    _require_device(config)
    reserved = RESERVED_COLUMNS.union(PREPARED.names)
    manifest = load_manifest(
        manifest_path,
        root=config.root,
        allow_outside_root=config.allow_outside_root,
        limit=config.limit,
        reserved=reserved,
    )
    tasks = expand_tasks(
        manifest.table, crops=config.crops, variations=config.variations, seed=config.seed
    )
    record = _make_record(manifest, tasks, config)
    previous = load_run_record(run)
    if previous is not None:
        _refuse_other_run(previous, record)
        record = dataclasses.replace(record, created_at=previous.created_at)
    run.create()
    if previous is None or (previous.config, previous.manifest_sha256) != (
        record.config,
        record.manifest_sha256,
    ):
        write_run_record(run, record)
        write_tasks(run, tasks)
    committed, _ = read_committed(run, KEYS)
    pending = pending_tasks(tasks, committed, config.retry)
    if len(pending):
        write_pending(run, pending)
        done = len(tasks) - len(pending)
        console.print(
            f"{out}: {len(pending)} of {len(tasks)} tasks to do"
            f"{f', {done} done before' if done else ''}; weights {record.weights}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
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
        for start in range(0, len(pending), INLINE_BLOCK_ROWS):
            block = pending.slice(start, INLINE_BLOCK_ROWS)
            actor(prepare_tasks(block, ExemplarSource(root, config)))
    finally:
        actor.close()


def _refuse_other_folder(run: RunDirectory) -> None:
    """Nothing of the user's is in a run directory: finalize replaces what has its names."""
    if run.path.exists() and not run.path.is_dir():
        raise RunDirectoryError(f"out {str(run.path)!r} is a file, expected a folder or nothing")
    if not run.path.is_dir() or run.run_json.exists():
        return
    ours = {run.shards, *run.temporaries()}
    other = [p.name for p in run.path.iterdir() if p not in ours and not p.name.startswith(".")]
    if other or any(run.shards.glob("*.parquet")):
        got = ", ".join(repr(name) for name in sorted(other or ["shards"])[:5])
        raise RunDirectoryError(
            f"out {str(run.path)!r} has no run.json but holds {got}; expected a run directory, an "
            "empty folder, or nothing"
        )


def _require_device(config: RunConfig) -> None:
    """Refuse a device that this machine lacks; a cluster's machines are not looked at."""
    if config.executor == "ray" and config.device is not None and ":" in config.device:
        raise ConfigError(
            f"device is {config.device!r} with executor 'ray', which hands out the devices itself; "
            "expected cpu or cuda"
        )
    local = config.executor == "inline" or config.address is None
    if local and config.device is not None and config.device != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(config.device.partition(":")[2] or 0) >= count:
            raise ConfigError(f"device is {config.device!r}, this machine has {count} CUDA devices")


def _make_record(manifest: Manifest, tasks: pa.Table, config: RunConfig) -> RunRecord:
    network = texsynth.load_network(config.weights, normalisation=config.normalisation)
    synthesis = config.resolve_synthesis()
    make_batches(network, synthesis, compute_levels(synthesis, config.size, config.size))
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
        manifest=str(manifest.path.absolute()),
        manifest_sha256=hashlib.sha256(manifest.path.read_bytes()).hexdigest(),
        root=manifest.root,
        carried=carried,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _refuse_other_run(previous: RunRecord, record: RunRecord) -> None:
    refuse_other_config(previous, record)
    for name in THRESHOLDS:
        before, now = previous.config.get(name), record.config.get(name)
        if before != now:
            raise RunMismatchError(
                f"{name} is {now!r}, the rows of this run were flagged with {before!r}; take the "
                "same value, or another directory"
            )
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
    committed, _ = read_committed(run, ["task_id", "status", "error_type", "error"])
    ours = committed.filter(pc.is_in(committed["task_id"], tasks["task_id"]))
    failed = ours.filter(pc.not_equal(ours["status"], "ok")).to_pylist()
    lines = [str(row["error"] or "").strip().partition("\n")[0] for row in failed]
    errors = Counter(f"{row['error_type']}: {s}" for row, s in zip(failed, lines, strict=True))
    return RunOutcome(
        run=run,
        tasks=len(tasks),
        done_now=done_now,
        statuses=dict(Counter(ours["status"].to_pylist())),
        errors=dict(errors.most_common()),
        missing=len(missing),
        problems=problems,
    )
