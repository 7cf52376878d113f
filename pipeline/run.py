"""A run from manifest to finished directory: resolve, resume, execute, finalize."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from pipeline.actor import SynthesisActor
from pipeline.attempts import keep_earlier_attempts, load_attempts
from pipeline.committed import FileProblem
from pipeline.config import RunConfig
from pipeline.finalize import Finalized, finalize
from pipeline.inspection import find_file_problems
from pipeline.isolation import prepare_block, remove_marks
from pipeline.outcome import RunOutcome, describe_outcome
from pipeline.pending import KEYS, find_pending, open_pending, write_pending
from pipeline.preflight import CheckedRun, check_run, refuse_other_run, require_device
from pipeline.prepare import ExemplarSource
from pipeline.progress import RunProgress
from pipeline.resume import (
    RunRecord,
    RunRecordError,
    load_run_record,
    open_tasks,
    refuse_filtered,
    write_run_record,
    write_tasks,
)
from pipeline.rundir import RunDirectory, require_run
from pipeline.runlog import RunLog
from pipeline.session import Session, hold_run, request_stop
from pipeline.signals import StopSignals
from pipeline.snapshot import read_each_file_once
from pipeline.table_stream import TableStream
from pipeline.tail import forget_begun_blocks
from pipeline.terminal import first_line, visible

INLINE_BLOCK_ROWS = 64
"""Tasks prepared at once without Ray: enough to refill lanes, few enough to hold in memory."""


def run_manifest(manifest_path: Path, out: Path, config: RunConfig, console: Console) -> RunOutcome:
    """Do what is left of a manifest's tasks, and finalize the run directory.

    Args:
        manifest_path: CSV or Parquet, see `manifests/README.md`.
        out: run directory; made if need be, continued if it is the same run's.
        config: resolved.
        console: for progress.

    Raises:
        ManifestError, SplitError, ConfigError, TapError, WeightsError: before anything is written.
        RunMismatchError, FilteredRunError: if `out` belongs to another configuration, or is the
            filtered part of another run.
        RunDirectoryError: if `out` is a file, or a folder of something else.
        RunBusyError: if another process works on `out`.
        OSError: if the directory cannot be written; committed rows stay.
    """
    run = RunDirectory(out)
    require_device(config)
    checked = check_run(manifest_path, config, run)
    run.create()
    with hold_run(run) as session:
        record = _write_record(run, checked)
        return _go_on(run, record, config, _Terminal(console, session))


def retry_run(run: RunDirectory, retry: Sequence[str], console: Console) -> RunOutcome:
    """Do tasks of a run again, and those it still lacks, by what its directory says alone.

    Args:
        run: the run directory.
        retry: statuses of rows whose tasks are done again, or `flagged`.
        console: for progress.

    Raises:
        NotARunError, RunRecordError: if it is no run directory, or a damaged one.
        FilteredRunError: if it is the filtered part of another run.
        RunBusyError, WeightsError, OSError: as `run_manifest`.
    """
    record = require_record(run)
    refuse_filtered(record)
    config = RunConfig.model_validate({**record.config, "retry": tuple(retry)})
    require_device(config)
    run.create()
    with hold_run(run) as session:
        return _go_on(run, record, config, _Terminal(console, session))


def finalize_run(run: RunDirectory) -> Finalized:
    """Compact what is committed, as a run does at its end.

    Raises:
        NotARunError, RunRecordError: if it is no run directory, or a damaged one.
        RunBusyError: if a process works on it.
        OSError: if the disk is full, or the like; committed rows stay.
    """
    require_record(run)
    run.create()
    with hold_run(run):
        return _finalize(run, open_tasks(run).read(["task_id"])["task_id"])


def require_record(run: RunDirectory) -> RunRecord:
    """What a run directory says that it is.

    Raises:
        NotARunError, RunRecordError: if it is no run directory, or a damaged one.
    """
    require_run(run)
    record = load_run_record(run)
    if record is None:
        raise RunRecordError(f"{run.run_json} is missing; `texsynth run` writes it anew")
    return record


@dataclass(frozen=True)
class _Terminal:
    """Who works on the run, and where it says so."""

    console: Console
    session: Session

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _write_record(run: RunDirectory, checked: CheckedRun) -> RunRecord:
    """Write what the run is, where that is new."""
    record = checked.record
    previous = load_run_record(run)
    if previous is not None:
        # Another process may have written it since it was checked.
        refuse_other_run(previous, record)
        record = dataclasses.replace(record, created_at=previous.created_at)
    same = previous is not None and (previous.config, previous.manifest_sha256) == (
        record.config,
        record.manifest_sha256,
    )
    if not same or not _holds(run, checked.tasks):
        write_tasks(run, checked.tasks)
        write_run_record(run, record)
    return record


def _holds(run: RunDirectory, tasks: TableStream) -> bool:
    """Whether `tasks.parquet` has these tasks."""
    try:
        return open_tasks(run).holds(tasks)
    except RunRecordError:
        return False


def _say_problems(
    run: RunDirectory, unreadable: Sequence[FileProblem], terminal: _Terminal
) -> None:
    """Name the files that are not as they should be, each once; the run goes on without them."""
    problems = [*unreadable, *load_attempts(run)[1], *find_file_problems(run, held=True)]
    reasons = {problem.path: problem.reason for problem in reversed(problems)}
    for path in sorted(reasons):
        terminal.say(visible(f"passed over: {path}: {reasons[path]}"))


def _go_on(
    run: RunDirectory, record: RunRecord, config: RunConfig, terminal: _Terminal
) -> RunOutcome:
    """Execute what is pending and finalize; the run is held by this process."""
    tasks = open_tasks(run)
    task_ids = tasks.read(["task_id"])["task_id"]
    count = _list_pending(run, tasks, task_ids, config, terminal)
    counted = pa.table({"task_id": task_ids[:0], "attempts": pa.array([], pa.int32())})
    if count:
        before = f", {len(task_ids) - count} done before" if count < len(task_ids) else ""
        terminal.say(
            f"{run.path}: {count} of {len(task_ids)} tasks to do{before}; weights {record.weights}"
        )
        stopped_by = _execute(run, config, record, count, terminal)
        counted = open_pending(run).read(["task_id", "attempts"])
        if stopped_by is not None:
            return describe_outcome(run, task_ids, counted, stopped_by=stopped_by)
    finalized = _finalize(run, task_ids)
    return describe_outcome(run, task_ids, counted, problems=finalized.problems)


def _list_pending(
    run: RunDirectory,
    tasks: TableStream,
    task_ids: pa.ChunkedArray,
    config: RunConfig,
    terminal: _Terminal,
) -> int:
    """Write `pending.parquet`, if any task is left; gives how many are."""
    committed, unreadable = read_each_file_once(run, KEYS)
    _say_problems(run, unreadable, terminal)
    _keep_attempts(run, committed, forgiven=terminal.session.forgiven)
    forget_begun_blocks(run)
    again = config.retry_flagged
    pending = find_pending(task_ids, committed, config.retry, retry_flagged=again)
    if len(pending):
        write_pending(run, pending.select(tasks))
    return len(pending)


def _execute(
    run: RunDirectory, config: RunConfig, record: RunRecord, pending: int, terminal: _Terminal
) -> signal.Signals | None:
    """Do the pending tasks; gives the signal that ended it early, if one did."""
    session = terminal.session

    def ask() -> None:
        # On a full disk actors are not told, and the driver leaves them after a while.
        with contextlib.suppress(OSError):
            request_stop(run, session)

    log = RunLog(run)
    log.event(
        "session_begun",
        session=session.id,
        host=session.host,
        pid=session.pid,
        pending=pending,
        weights=record.weights,
        versions=dict(record.versions),
    )
    received: signal.Signals | None = None
    try:
        progress = RunProgress(
            run, pending, terminal.console, log, retry_flagged=config.retry_flagged
        )
        with StopSignals(ask) as signals, progress:
            if config.executor == "ray":
                _execute_on_ray(run, config, record.root, pending, (terminal, signals))
            else:
                _execute_inline(run, config, record.root, signals)
        received = signals.received
    except BaseException as error:
        log.event("session_failed", session=session.id, error=first_line(str(error)))
        raise
    if received:
        log.event("session_stopped", session=session.id, signal=received.name)
    else:
        log.event("session_ended", session=session.id)
    return received


def _execute_on_ray(
    run: RunDirectory,
    config: RunConfig,
    root: str,
    pending: int,
    driver: tuple[_Terminal, StopSignals],
) -> None:
    from pipeline.job import Job, run_ray_job

    terminal, signals = driver
    job = Job(
        pending=pending,
        session=terminal.session.id,
        stopping=lambda: signals.received is not None,
        take_signals=signals.install,
        say=terminal.say,
    )
    run_ray_job(run, config, root, job)


def _execute_inline(run: RunDirectory, config: RunConfig, root: str, signals: StopSignals) -> None:
    actor = SynthesisActor(str(run.path), device=config.device)
    try:
        for block in open_pending(run).cut(INLINE_BLOCK_ROWS):
            if signals.received:
                break
            actor(prepare_block(block, ExemplarSource(root, config), run))
    finally:
        actor.close()


def _finalize(run: RunDirectory, task_ids: pa.ChunkedArray) -> Finalized:
    compact = run.success.exists()
    finalized = finalize(run, task_ids)
    if any(run.attempts.glob("*.json")):
        _keep_attempts(run, read_each_file_once(run, KEYS)[0])
    if not finalized.missing:
        remove_marks(run)
    if not compact or finalized.missing:
        RunLog(run).event("finalized", rows=finalized.rows, missing=len(finalized.missing))
    return finalized


def _keep_attempts(run: RunDirectory, committed: pa.Table, *, forgiven: str | None = None) -> None:
    begun = pa.array(load_attempts(run)[0], pa.string())
    rows = committed.filter(pc.is_in(committed["task_id"], begun))
    columns = (rows["task_id"].to_pylist(), rows["attempts"].to_pylist())
    keep_earlier_attempts(run, dict(zip(*columns, strict=True)), forgiven=forgiven)
