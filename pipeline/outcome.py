"""What a run directory holds after a run, for whoever started it."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import FileProblem
from pipeline.rundir import RunDirectory
from pipeline.snapshot import read_each_file_once
from pipeline.terminal import first_line

COLUMNS = ("task_id", "status", "attempts", "stop_reason", "error_type", "error")


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run directory holds after `run_manifest`.

    Args:
        run: the directory.
        tasks: of the manifest.
        done_now: tasks that this call was to do and that have rows.
        statuses: number of rows by status.
        errors: number of rows without a good texture by what went wrong: type and first line.
        missing: tasks without a row.
        problems: files in the directory that could not be read.
        stopped_by: the signal that ended it before its end, if any.
    """

    run: RunDirectory
    tasks: int
    done_now: int
    statuses: dict[str, int]
    errors: dict[str, int]
    missing: int
    problems: tuple[FileProblem, ...] = ()
    stopped_by: signal.Signals | None = None

    @property
    def complete(self) -> bool:
        """Every task has a row, and every row is a texture."""
        return self.missing == 0 and set(self.statuses) <= {"ok"}


def describe_outcome(
    run: RunDirectory,
    task_ids: pa.ChunkedArray,
    pending: pa.Table,
    *,
    problems: tuple[FileProblem, ...] = (),
    stopped_by: signal.Signals | None = None,
) -> RunOutcome:
    """Count what is committed.

    Args:
        run: the directory.
        task_ids: of the manifest.
        pending: the tasks that were to be done, with `attempts` as before.
        problems: files that could not be read.
        stopped_by: the signal that ended the run early, if any.
    """
    committed, _ = read_each_file_once(run, COLUMNS)
    ours = committed.filter(pc.is_in(committed["task_id"], task_ids))
    missing = len(task_ids) - len(ours)
    errors = Counter(
        _describe_error(row) for row in ours.filter(pc.not_equal(ours["status"], "ok")).to_pylist()
    )
    counts = pc.value_counts(ours["status"]).to_pylist()
    return RunOutcome(
        run=run,
        tasks=len(task_ids),
        done_now=_count_done(ours, pending),
        statuses={item["values"]: item["counts"] for item in counts},
        errors=dict(errors.most_common()),
        missing=missing,
        problems=problems,
        stopped_by=stopped_by,
    )


def _count_done(rows: pa.Table, pending: pa.Table) -> int:
    """How many pending tasks have a row of a later attempt than they had before."""
    place = pc.index_in(pending["task_id"], rows["task_id"])
    later = pc.greater(rows["attempts"].take(place), pending["attempts"])
    return pc.sum(later).as_py() or 0


def _describe_error(row: dict[str, str | None]) -> str:
    """Type and first line; a row with an image has no error but its time limit."""
    if row["error_type"] is None:
        return f"{row['status']}: stopped by {row['stop_reason']}, the best image so far is kept"
    return f"{row['error_type']}: {first_line(row['error'])}"
