"""Numbers about the committed rows of a run: by category, the pace, the last error, the slowest."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import STATUSES
from pipeline.committed import UnreadableFileError, open_parquet
from pipeline.rundir import RunDirectory
from pipeline.terminal import first_line

PACE_SECONDS = 600.0
"""How far back the pace looks: a few tasks even where one takes minutes."""
SLOWEST_SHOWN = 5
TEXTURE_STATUSES = ("ok", "timeout")
"""Rows that have a texture."""
MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class CategoryCounts:
    """Tasks of one category, and how many of them have a row of each status, or none."""

    category: str | None
    tasks: int
    ok: int
    failed: int
    timeout: int
    quarantined: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast tasks end, and when the last will; None where nothing says."""

    textures_per_minute: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class LastError:
    """The error of the row that ended last with one; `line` is the first of its message."""

    task_id: str
    error_type: str | None
    line: str
    finished_at: str


@dataclass(frozen=True, kw_only=True)
class SlowTask:
    """A task that took long."""

    task_id: str
    seconds: float
    evaluations: float | None


def tally_categories(rows: pa.Table, tasks: pa.Table | None) -> tuple[CategoryCounts, ...]:
    """Tasks by category and status, sorted by category.

    Args:
        rows: `task_id`, `category` and `status` of the committed rows.
        tasks: `task_id` and `category` of all tasks; None takes those that have rows.
    """
    if tasks is None:
        tasks = rows
    row = pc.index_in(tasks["task_id"], rows["task_id"])
    status = pc.fill_null(rows["status"].take(row), MISSING)
    pairs = pa.table({"category": tasks["category"], "status": status})
    counts: dict[str | None, dict[str, int]] = defaultdict(dict)
    for group in pairs.group_by(["category", "status"]).aggregate([([], "count_all")]).to_pylist():
        counts[group["category"]][group["status"]] = group["count_all"]
    return tuple(
        CategoryCounts(
            category=category,
            tasks=sum(counts[category].values()),
            **{name: counts[category].get(name, 0) for name in (*STATUSES, MISSING)},
        )
        for category in sorted(counts, key=lambda name: (name is None, name or ""))
    )


def count_left(run: RunDirectory, rows: pa.Table, missing: int | None) -> int | None:
    """Tasks that a session which works on the run has still to do.

    Args:
        run: The run directory.
        rows: `task_id` and `attempts` of the committed rows.
        missing: Taken where the list of the session's tasks cannot be read.
    """
    try:
        with open_parquet(run.pending) as file:
            pending = file.read(["task_id", "attempts"])
        before = pending["attempts"].cast(pa.int32())
        row = pc.index_in(pending["task_id"], rows["task_id"])
    except (FileNotFoundError, UnreadableFileError, KeyError, pa.ArrowException):
        return missing
    now = pc.fill_null(rows["attempts"].take(row), 0)
    return int(pc.sum(pc.less_equal(now, before)).as_py() or 0)


def measure_pace(
    rows: pa.Table, left: int | None, begun_at: str | None, now: datetime.datetime
) -> Pace:
    """The pace of the present session over the last PACE_SECONDS.

    Args:
        rows: `status` and `finished_at` of the committed rows.
        left: Tasks that the session has still to do.
        begun_at: When the session began, ISO 8601; None if that is not known.
        now: With time zone.
    """
    start = now - datetime.timedelta(seconds=PACE_SECONDS)
    # A time that cannot be read, or has no zone, shortens nothing.
    with contextlib.suppress(ValueError, TypeError):
        start = max(start, datetime.datetime.fromisoformat(begun_at or ""))
    seconds = (now - start).total_seconds()
    ended = rows.filter(pc.greater_equal(rows["finished_at"].cast(pa.int64()), _epoch_ms(start)))
    textures = pc.sum(pc.is_in(ended["status"], pa.array(TEXTURE_STATUSES))).as_py() or 0
    if seconds <= 0:
        return Pace()
    return Pace(
        textures_per_minute=60 * textures / seconds,
        seconds_left=left * seconds / len(ended) if left is not None and len(ended) else None,
    )


def find_last_error(rows: pa.Table) -> LastError | None:
    """The last error by `finished_at`; None if no row has one."""
    failed = rows.filter(pc.is_valid(rows["error"]))
    if not len(failed):
        return None
    index = pc.index(failed["finished_at"], pc.max(failed["finished_at"])).as_py()
    row = failed.slice(index, 1).to_pylist()[0]
    return LastError(
        task_id=row["task_id"],
        error_type=row["error_type"],
        line=first_line(row["error"]),
        finished_at=row["finished_at"].isoformat(timespec="seconds"),
    )


def find_slowest(rows: pa.Table) -> tuple[SlowTask, ...]:
    """The SLOWEST_SHOWN rows that took most seconds, the slowest first."""
    timed = rows.filter(pc.is_finite(rows["seconds"]))
    slowest = timed.take(pc.select_k_unstable(timed, SLOWEST_SHOWN, [("seconds", "descending")]))
    return tuple(
        SlowTask(
            task_id=row["task_id"],
            seconds=row["seconds"],
            evaluations=_finite(row["evaluations"]),
        )
        for row in slowest.select(["task_id", "seconds", "evaluations"]).to_pylist()
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _epoch_ms(time: datetime.datetime) -> int:
    return round(time.timestamp() * 1000)
