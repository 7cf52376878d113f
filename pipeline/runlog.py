"""The log of a run: one JSON object per line in `log.jsonl`, for people and for their tools.

On an object store it is in parts, `log/*.jsonl`.

Every line begins with `time` (ISO 8601, UTC) and `event`; the others depend on the event:

* `session_begun`: session, host, pid, pending, weights, versions
* `task`, once its row is committed: the columns TASK_COLUMNS; of `error` the first line
* `block`, once the rows of a block are committed: actor, tasks, begun_at, seconds, of which
  synthesis_seconds inside a synthesis; lanes, and the lane_seconds in which these had a task
* `actor_left`, when its node or process was about to go: actor, reason, and tasks, the ids of
  those of its block that it leaves to others
* `waiting_for_workers` and `workers_came`, of a cluster without a node for an actor: text
* `problem`, a file that cannot be read: path, reason
* `session_stopped` by a signal: session, signal; `session_failed`, with an error, and
  `session_ended`: session
* `finalized`: rows, missing

Control and other non-ASCII characters are escaped: the log can be shown on a terminal as it is.
"""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console

from pipeline.log_parts import part_writer, read_last_bytes
from pipeline.rundir import RunDirectory
from pipeline.storage import ObjectPath
from pipeline.terminal import first_line

TASK_COLUMNS = (
    "task_id",
    "status",
    "attempts",
    "error_type",
    "error",
    "float_loss",
    "delivered_loss",
    "evaluations",
    "seconds",
    "stop_reason",
    "device",
)
"""Of a row, in the line of its task."""
ERROR_LENGTH = 500
"""Characters of an error in the log; the row has the whole."""
WAITING = "waiting_for_workers"
"""The event of a cluster that has no node for an actor."""
FREQUENT = ("task", "block")
"""Events that on an object store may wait for others."""
TAIL_BYTES = 65_536
"""How far from its end a log is searched."""


class RunLog:
    """Appends lines to the log of a run.

    A line that cannot be written is lost: a full disk stops a run that cannot commit its rows, and
    its log does not stop it before that. The first such error is shown, once.

    Args:
        run: The run directory, which exists.
        console: Where the error is shown; standard error if not given.
    """

    def __init__(self, run: RunDirectory, console: Console | None = None) -> None:
        self._path = run.log
        self._parts = part_writer(run.log_parts) if isinstance(run.log_parts, ObjectPath) else None
        self._console = console or Console(stderr=True)
        self._failed = False

    def event(self, name: str, /, **values: Any) -> None:
        """Append one line.

        Args:
            name: Of the event.
            values: Of the line; numbers that are not finite become null, and what has no JSON form
                its text.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": name, **_finite(values)}, default=str)
        try:
            if self._parts:
                self._parts.append(line.encode() + b"\n", now=name not in FREQUENT)
            else:
                self._append(line.encode() + b"\n")
        except OSError as error:
            if not self._failed:
                self._failed = True
                self._console.print(
                    f"the log {self._path} cannot be written, the run goes on: {error}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

    def task_events(self, rows: pa.Table) -> None:
        """Append one line per row.

        Args:
            rows: Committed rows; the columns TASK_COLUMNS.
        """
        for row in rows.select(TASK_COLUMNS).to_pylist():
            error = row["error"]
            row["error"] = None if error is None else first_line(error)[:ERROR_LENGTH]
            self.event("task", **row)

    def _append(self, line: bytes) -> None:
        descriptor = os.open(str(self._path), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            end = os.fstat(descriptor).st_size
            # The end of a line that a crash, or a full disk, has cut.
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                line = b"\n" + line
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def load_last_event(run: RunDirectory, prefix: str) -> dict[str, Any] | None:
    """The last line whose event begins with `prefix`; None if the end of the log has none.

    Args:
        run: The run directory.
        prefix: As `session_`.
    """
    try:
        lines = _read_tail(run).split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and str(values.get("event", "")).startswith(prefix):
            return values
    return None


def _read_tail(run: RunDirectory) -> bytes:
    if isinstance(run.log_parts, ObjectPath):
        return read_last_bytes(run.log_parts, TAIL_BYTES)
    with run.log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        return file.read(TAIL_BYTES)


def _finite(value: Any) -> Any:
    """The same value with null in place of numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
