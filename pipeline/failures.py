"""The rows of a run without a good texture, one by one and by what went wrong."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import STATUSES
from pipeline.committed import FileProblem, UnreadableFileError
from pipeline.rundir import RunDirectory
from pipeline.snapshot import RowReader, load_task_columns
from pipeline.terminal import first_line

FAILURE_STATUSES = tuple(status for status in STATUSES if status != "ok")
COLUMNS = (
    "task_id",
    "path",
    "category",
    "status",
    "attempts",
    "error_type",
    "error",
    "finished_at",
    "device",
)
EXAMPLES = 3
"""Task ids that are named of a group."""

Row = dict[str, Any]


class FailuresError(ValueError):
    """Failures were asked for that there cannot be."""


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Rows with the same status, type of error and first line of its message."""

    status: str
    error_type: str | None
    line: str
    task_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Rows without a good texture.

    Attributes:
        rows: The columns COLUMNS of each; sorted by (category, task_id).
        problems: Files that could not be read: their rows are not here.
    """

    rows: tuple[Row, ...]
    problems: tuple[FileProblem, ...]

    def count_statuses(self) -> dict[str, int]:
        """Number of rows by status, of those that there are."""
        statuses = [row["status"] for row in self.rows]
        return {name: statuses.count(name) for name in FAILURE_STATUSES if name in statuses}

    def group(self) -> list[FailureGroup]:
        """The rows by what went wrong, the largest group first."""
        groups: dict[tuple[str, str | None, str], list[str]] = {}
        for row in self.rows:
            key = (row["status"], row["error_type"], first_line(row["error"]))
            groups.setdefault(key, []).append(row["task_id"])
        ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
        return [
            FailureGroup(status=status, error_type=kind, line=line, task_ids=tuple(task_ids))
            for (status, kind, line), task_ids in ordered
        ]


def load_failures(
    run: RunDirectory, statuses: Collection[str] = FAILURE_STATUSES, *, task: str | None = None
) -> Failures:
    """The rows of some statuses; those of tasks that the manifest no longer has are left out.

    Args:
        run: The run directory, whole or damaged.
        statuses: Some of FAILURE_STATUSES.
        task: Id of the only task that is asked for.

    Raises:
        FailuresError: A status is unknown, or `task` has no such row.
    """
    unknown = [name for name in statuses if name not in FAILURE_STATUSES]
    if unknown or not statuses:
        expected = ", ".join(FAILURE_STATUSES)
        raise FailuresError(f"status: got {unknown or 'none'}, expected some of {expected}")
    table, problems = RowReader(run, COLUMNS).read()
    wanted = pc.is_in(table["status"], pa.array(sorted(statuses), pa.string()))
    failed = table.filter(wanted).select(COLUMNS)
    try:
        tasks = load_task_columns(run, ("task_id",))
        failed = failed.filter(pc.is_in(failed["task_id"], tasks["task_id"]))
    except UnreadableFileError as error:
        problems = [*problems, error.problem]
    if task is not None:
        failed = failed.filter(pc.equal(failed["task_id"], task))
        if not len(failed):
            raise FailuresError(f"task {task!r}: no row with status {' or '.join(statuses)}")
    return Failures(rows=tuple(failed.to_pylist()), problems=tuple(problems))


def failures_json(rows: Sequence[Row]) -> str:
    """The rows as JSON, one object per line, with their whole errors."""
    shown = [row | {"finished_at": row["finished_at"].isoformat()} for row in rows]
    return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in shown)
