"""What the small files of a run say; one that cannot be read is a problem, not an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.attempts import Attempt, load_attempts, running_here
from pipeline.committed import FileProblem, UnreadableFileError
from pipeline.resume import RunRecord, RunRecordError, load_run_record
from pipeline.rundir import RunDirectory, require_run
from pipeline.session import Session, is_held, load_session
from pipeline.snapshot import load_task_columns


@dataclass(frozen=True, kw_only=True)
class OpenAttempt:
    """An attempt at a task that has no row.

    Attributes:
        task_id: The task.
        number: Of the attempt, from 1.
        begun_at: ISO 8601 with time zone.
        host: Of its process; empty where only earlier sessions knew it.
        actor: Whose attempt it is.
    """

    task_id: str
    number: int
    begun_at: str
    host: str
    actor: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the small files of a run say.

    Attributes:
        manifest: Path of the manifest; None if `run.json` cannot be read.
        actors: As it was said how many there are to be; None if nothing was said, or is known.
        session: Who works on the run, or was the last to; None if that cannot be read.
        held: Whether a process works on it.
        attempts: The latest attempt of every task that is in a file of attempts.
        tasks: `task_id` and `category` of all tasks; None if they cannot be read.
        problems: The files that could not be read.
    """

    manifest: str | None
    actors: int | str | None
    session: Session | None
    held: bool
    attempts: tuple[Attempt, ...]
    tasks: pa.Table | None
    problems: tuple[FileProblem, ...]


def load_evidence(run: RunDirectory) -> Evidence:
    """Read the small files of a run.

    Raises:
        NotARunError: The path is no run directory.
    """
    require_run(run)
    problems: list[FileProblem] = []
    session, held = _load_session(run, problems)
    record = _load_record(run, problems)
    return Evidence(
        manifest=str(record.manifest) if record else None,
        actors=_find_actors(record),
        session=session,
        held=held,
        attempts=_load_attempts(run, problems),
        tasks=_load_tasks(run, problems),
        problems=tuple(problems),
    )


def sort_attempts(
    evidence: Evidence, rows: pa.Table
) -> tuple[tuple[OpenAttempt, ...], tuple[OpenAttempt, ...]]:
    """The attempts without a row: those under way, and those that died.

    Args:
        evidence: Of the run, read before the rows: an attempt that ends in between has a row.
        rows: `task_id` and `attempts` of the committed rows.
    """
    attempts, session = evidence.attempts, evidence.session
    if not attempts:
        return (), ()
    wanted = pa.array([attempt.task_id for attempt in attempts], pa.string())
    begun = rows.filter(pc.is_in(rows["task_id"], wanted)).select(["task_id", "attempts"])
    committed = {row["task_id"]: row["attempts"] for row in begun.to_pylist()}
    under_way: list[OpenAttempt] = []
    died: list[OpenAttempt] = []
    for attempt in sorted(attempts, key=lambda attempt: str(attempt.begun_at)):
        if attempt.number <= committed.get(attempt.task_id, 0):
            continue
        shown = OpenAttempt(
            task_id=attempt.task_id,
            number=attempt.number,
            begun_at=str(attempt.begun_at),
            host=str(attempt.host),
            actor=str(attempt.actor),
        )
        alive = evidence.held and session is not None and _is_running(attempt, session.id)
        (under_way if alive else died).append(shown)
    return tuple(under_way), tuple(died)


def _load_record(run: RunDirectory, problems: list[FileProblem]) -> RunRecord | None:
    try:
        record = load_run_record(run)
    except (RunRecordError, OSError, RecursionError) as error:
        problems.append(FileProblem(run.run_json, f"no run record: {error.__cause__ or error!r}"))
        return None
    if record is None:
        problems.append(FileProblem(run.run_json, "missing"))
    return record


def _find_actors(record: RunRecord | None) -> int | str | None:
    """As the configuration has it; a damaged one may have anything."""
    config: Any = record.config if record else None
    actors = config.get("actors") if isinstance(config, dict) else None
    return actors if isinstance(actors, int | str) else None


def _load_session(run: RunDirectory, problems: list[FileProblem]) -> tuple[Session | None, bool]:
    """The session that can be read, and whether a process works on the run."""
    session = load_session(run)
    if session is not None and not _is_sound(session):
        session = None
    if session is None and (run.session.exists() or run.lock.exists()):
        problems.append(FileProblem(run.session, "no record of a session"))
    try:
        return session, is_held(run)
    except OSError as error:
        reason = f"cannot be tried, `session.json` is believed: {error}"
        problems.append(FileProblem(run.lock, reason))
        return session, session is not None and session.state != "ended"


def _is_sound(session: Session) -> bool:
    texts = (session.id, session.host, session.begun_at, session.state)
    return all(isinstance(text, str) for text in texts) and isinstance(session.pid, int)


def _load_attempts(run: RunDirectory, problems: list[FileProblem]) -> tuple[Attempt, ...]:
    latest, unreadable = load_attempts(run)
    problems += unreadable
    return tuple(latest.values())


def _load_tasks(run: RunDirectory, problems: list[FileProblem]) -> pa.Table | None:
    try:
        return load_task_columns(run, ("task_id", "category"))
    except UnreadableFileError as error:
        problems.append(error.problem)
        return None


def _is_running(attempt: Attempt, session: str) -> bool:
    try:
        return bool(running_here([attempt], session))
    except (TypeError, OverflowError):
        # No process has such a number: the file was damaged.
        return False
