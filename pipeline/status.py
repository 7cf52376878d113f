"""The state of a run from its files alone, during it or after: no process is asked, none disturbed.

A damaged directory has a status too: what cannot be read is named, and the rest is told.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import STATUSES
from pipeline.committed import FileProblem
from pipeline.evidence import OpenAttempt, load_evidence, sort_attempts
from pipeline.inspection import find_file_problems
from pipeline.next_step import RunState, choose_next_step
from pipeline.rundir import RunDirectory
from pipeline.runlog import WAITING, load_last_event
from pipeline.session import Session
from pipeline.snapshot import RowReader
from pipeline.tally import (
    CategoryCounts,
    LastError,
    Pace,
    SlowTask,
    count_left,
    find_last_error,
    find_slowest,
    measure_pace,
    tally_categories,
)

COLUMNS = (
    "task_id",
    "category",
    "attempts",
    "status",
    "error_type",
    "error",
    "finished_at",
    "seconds",
    "evaluations",
)


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The state of a run; also, by these names, the object that `texsynth status --json` prints.

    Attributes:
        run: Path of the directory.
        time: When it was looked at, ISO 8601, UTC.
        state: `running`, or `stopping` after a signal, while a process works on it. Else
            `finished`: every task has a row, finalized; `stopped` by a signal; `crashed`: the
            process ended before its work did; `incomplete`: nobody works on it, and it is not
            finished.
        stopped_by: Name of the signal that stopped it, where it is known.
        session: Who works on it, or was the last to: id, host, pid, begun_at, state.
        manifest: Path of the manifest.
        tasks: Of the manifest; null if `tasks.parquet` cannot be read, as is all that needs it.
        statuses: Number of tasks by status of their rows: ok, failed, timeout, quarantined.
        missing: Tasks without a row.
        other_rows: Rows of tasks that the manifest does not have (any more).
        left: Tasks that the present session has still to do; null if none works on it.
        waiting: What the run waits for, where nothing can be done before it comes; else null.
        actors: How many have attempts under way.
        actors_wanted: As it was said: a number, or MIN:MAX; null if nothing was.
        in_flight: Attempts under way: task_id, number, begun_at, host, actor.
        died: Attempts whose process is gone and that left no row, likewise.
        categories: Numbers by category: category (null: none), tasks, missing, and by status.
        textures_per_minute: Over the last 10 minutes of the present session; null if there is none.
        seconds_left: At the pace of those minutes, s; null if nothing ended in them.
        last_error: Of the row that ended last with one: task_id, error_type, line, finished_at.
        slowest: The five slowest tasks: task_id, seconds, evaluations.
        problems: Files that are not as they should be: path, reason.
        next_step: The command that goes on.
    """

    run: str
    time: str
    state: RunState
    stopped_by: str | None
    session: Session | None
    manifest: str | None
    tasks: int | None
    statuses: dict[str, int]
    missing: int | None
    other_rows: int
    left: int | None
    waiting: str | None
    actors: int
    actors_wanted: int | str | None
    in_flight: tuple[OpenAttempt, ...]
    died: tuple[OpenAttempt, ...]
    categories: tuple[CategoryCounts, ...]
    textures_per_minute: float | None
    seconds_left: float | None
    last_error: LastError | None
    slowest: tuple[SlowTask, ...]
    problems: tuple[FileProblem, ...]
    next_step: str

    @property
    def working(self) -> bool:
        """Whether a process works on the run."""
        return self.state in ("running", "stopping")

    def to_json(self) -> str:
        """The attributes as one JSON object, on one line."""
        return json.dumps(dataclasses.asdict(self), default=str, allow_nan=False)


def load_status(run: RunDirectory) -> RunStatus:
    """The state of a run.

    Raises:
        NotARunError: The path is no run directory.
    """
    return StatusReader(run).load()


class StatusReader:
    """Looks at a run again and again; what has been read and not changed is not read again.

    Args:
        run: The run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._rows = RowReader(run, COLUMNS)

    def load(self) -> RunStatus:
        """The state of the run at this moment.

        Raises:
            NotARunError: The path is no run directory.
        """
        run = self._run
        now = datetime.datetime.now(datetime.UTC)
        evidence = load_evidence(run)
        session, held, tasks = evidence.session, evidence.held, evidence.tasks
        rows, problems = self._rows.read()
        problems = [*evidence.problems, *problems, *find_file_problems(run, held=held)]
        ours = rows
        if tasks is not None:
            ours = rows.filter(pc.is_in(rows["task_id"], tasks["task_id"]))
        missing = None if tasks is None else len(tasks) - len(ours)
        statuses = _count_statuses(ours)
        state, stopped_by = _find_state(run, session, held=held, missing=missing)
        in_flight, died = sort_attempts(evidence, rows)
        left = count_left(run, rows, missing) if held else None
        begun_at = session.begun_at if session else None
        pace = measure_pace(rows, left, begun_at, now) if held else Pace()
        return RunStatus(
            run=str(run.path),
            time=now.isoformat(timespec="seconds"),
            state=state,
            stopped_by=stopped_by,
            session=session,
            manifest=evidence.manifest,
            tasks=None if tasks is None else len(tasks),
            statuses=statuses,
            missing=missing,
            other_rows=len(rows) - len(ours),
            left=left,
            waiting=_find_wait(run) if held else None,
            actors=len({attempt.actor for attempt in in_flight}),
            actors_wanted=evidence.actors,
            in_flight=in_flight,
            died=died,
            categories=tally_categories(ours, tasks),
            textures_per_minute=pace.textures_per_minute,
            seconds_left=pace.seconds_left,
            last_error=find_last_error(ours),
            slowest=find_slowest(ours),
            problems=_each_path_once(problems),
            next_step=choose_next_step(run, state, evidence.manifest, missing, statuses),
        )


def _count_statuses(rows: pa.Table) -> dict[str, int]:
    counts = {
        item["values"]: item["counts"] for item in pc.value_counts(rows["status"]).to_pylist()
    }
    return {status: counts.get(status, 0) for status in STATUSES}


def _find_state(
    run: RunDirectory, session: Session | None, *, held: bool, missing: int | None
) -> tuple[RunState, str | None]:
    """The state, and the name of the signal that stopped the last session, if the log has it."""
    state, session_id = (session.state, session.id) if session else (None, None)
    if held:
        return ("stopping" if state == "stopping" else "running"), None
    if run.success.exists() and not missing:
        return "finished", None
    event = load_last_event(run, "session_") or {}
    stopped = event.get("event") == "session_stopped" and event.get("session") == session_id
    signal = event.get("signal") if stopped else None
    if state == "stopping" or (state == "ended" and stopped):
        return "stopped", None if signal is None else str(signal)
    return ("incomplete" if state in (None, "ended") else "crashed"), None


def _find_wait(run: RunDirectory) -> str | None:
    """What the last line of the log says that the run waits for, if that is what it says."""
    event = load_last_event(run, "") or {}
    return str(event["text"]) if event.get("event") == WAITING else None


def _each_path_once(problems: list[FileProblem]) -> tuple[FileProblem, ...]:
    """The first problem of every path, by path."""
    first = {problem.path: problem for problem in reversed(problems)}
    return tuple(first[path] for path in sorted(first))
