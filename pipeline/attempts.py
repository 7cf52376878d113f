"""Attempts at tasks, counted before work starts, so that a death of the process cannot hide one.

Every actor has one small file in `attempts/`: the tasks that it has begun and whose rows are not
committed yet, each with the number of this attempt. A file that outlives its actor is the evidence
of a death: every task in it is under suspicion. Suspects are tried in ever smaller groups, the last
time alone; a task that dies then is quarantined.
"""

from __future__ import annotations

import contextlib
import datetime
import glob
import json
import math
import os
import platform
import secrets
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.committed import FileProblem
from pipeline.object_store import StorageError
from pipeline.rundir import RunDirectory, write_json_atomic
from pipeline.side_by_side import do_side_by_side, remove_side_by_side
from pipeline.storage import AnyPath, sorted_glob

EARLIER = "earlier"
"""Name of the file that keeps what actors of earlier sessions left."""

UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError),
    *(OverflowError, RecursionError),
)
"""What reading a damaged file can raise."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt that has no row yet.

    Attributes:
        task_id: The task.
        number: Of the attempt, from 1; that of its row, if there will be one.
        begun_at: ISO 8601 with time zone.
        actor, host, pid: Whose.
        session: In which session; None for one of an earlier session.
    """

    task_id: str
    number: int
    begun_at: str
    actor: str
    host: str
    pid: int
    session: str | None


class AttemptFile:
    """What one actor has in flight; until it is ready, and forgets all, a mark that it starts.

    Safe to use from several threads.

    Args:
        run: The run directory; its `attempts` folder exists.
        session: Id of the session.

    Raises:
        OSError: The disk is full, or the like.
    """

    def __init__(self, run: RunDirectory, session: str | None) -> None:
        self._values = {
            "actor": f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}",
            "host": platform.node(),
            "pid": os.getpid(),
            "session": session,
        }
        self._path = run.attempts / f"{self._values['actor']}.json"
        self._tasks: dict[str, dict[str, Any]] = {}
        # Again by the same thread: a signal may come while it holds it.
        self._changed = threading.RLock()
        write_json_atomic(self._path, {**self._values, "starting": True, "tasks": {}})

    @property
    def name(self) -> str:
        """Of the actor."""
        return str(self._values["actor"])

    def begin(self, numbers: Mapping[str, int]) -> None:
        """Record tasks as begun; durable when this returns.

        Args:
            numbers: The number of the attempt, by task id.

        Raises:
            OSError: The disk is full, or the like.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._changed:
            if all(self._tasks.get(task, {}).get("number") == n for task, n in numbers.items()):
                return
            begun = {task: {"number": n, "begun_at": now} for task, n in numbers.items()}
            self._write(self._tasks | begun)

    def end(self, task_ids: Iterable[str]) -> None:
        """Forget tasks: their rows are committed, or they were left off in an orderly way."""
        ended = set(task_ids)
        with self._changed:
            left = {task: value for task, value in self._tasks.items() if task not in ended}
            if len(left) < len(self._tasks):
                self._write(left)

    def end_all(self) -> None:
        """Forget everything by removing the file, which a full disk cannot prevent."""
        with self._changed:
            self._tasks = {}
            self._path.unlink(missing_ok=True)

    def _write(self, tasks: dict[str, dict[str, Any]]) -> None:
        write_json_atomic(self._path, {**self._values, "tasks": tasks})
        self._tasks = tasks


def load_attempts(
    run: RunDirectory, *, but: str | None = None, earlier: bool = False
) -> tuple[dict[str, Attempt], list[FileProblem]]:
    """The latest attempt without a row of every task that has any, and the files not understood.

    Args:
        run: The run directory, which may be missing.
        but: Name of an actor whose own file is passed over.
        earlier: Only those of earlier sessions.

    Raises:
        StorageError: The store does not answer.
    """
    latest: dict[str, Attempt] = {}
    problems = []
    files = [_earlier_file(run)] if earlier else sorted_glob(run.attempts, "*.json")
    for found in do_side_by_side(_read, files):
        if isinstance(found, FileProblem):
            problems.append(found)
            continue
        for attempt in found:
            known = latest.get(attempt.task_id)
            if attempt.actor != but and (known is None or attempt.number > known.number):
                latest[attempt.task_id] = attempt
    return latest, problems


def keep_earlier_attempts(
    run: RunDirectory, committed: Mapping[str, int], *, forgiven: str | None = None
) -> None:
    """Gather what earlier sessions left in one file, less the attempts that have rows.

    Args:
        run: The run directory, held by the caller: nobody else writes to `attempts/`.
        committed: `attempts` of the committed rows, by task id.
        forgiven: Id of a session whose driver ended its actors: their last attempts do not count.
    """
    latest, problems = load_attempts(run)
    unreadable = {problem.path for problem in problems}
    obsolete = [path for path in run.attempts.glob("*.json") if path not in unreadable]
    left = {}
    for task, attempt in latest.items():
        number = attempt.number - (forgiven is not None and attempt.session == forgiven)
        if number > committed.get(task, 0):
            left[task] = {"number": number, "begun_at": attempt.begun_at}
    earlier = _earlier_file(run)
    if left:
        values = {"actor": EARLIER, "host": "", "pid": 0, "session": None, "tasks": left}
        write_json_atomic(earlier, values)
        obsolete = [path for path in obsolete if path != earlier]
    remove_side_by_side(obsolete)


def _earlier_file(run: RunDirectory) -> AnyPath:
    return run.attempts / f"{EARLIER}.json"


def group_size(deaths: int, max_attempts: int, lanes: int) -> int:
    """How many tasks may be worked on beside each other after so many deaths of their process.

    lanes^(1 - deaths / (max_attempts - 1)): all lanes at first, one task alone at the last attempt,
    which with a single one is the first.
    """
    if max_attempts <= 1:
        return 1
    share = max(0.0, 1 - deaths / (max_attempts - 1))
    return max(1, round(math.pow(lanes, share)))


def count_failed_starts(run: RunDirectory, session: str | None) -> int:
    """How many actors of a session died on this machine before they were ready, in a row."""
    return len(_find_failed_starts(run, session))


def forget_failed_starts(run: RunDirectory, session: str | None) -> None:
    """Begin the count anew: an actor is ready, so actors can be started on this machine."""
    for path in _find_failed_starts(run, session):
        path.unlink(missing_ok=True)


def _find_failed_starts(run: RunDirectory, session: str | None) -> list[AnyPath]:
    found = []
    # Of this machine alone, by the names of their actors: on a store each is a request.
    for path in run.attempts.glob(f"{glob.escape(platform.node())}-*.json"):
        with contextlib.suppress(*UNREADABLE):
            values = json.loads(path.read_bytes())
            starting = values.get("starting", False) and values["session"] == session
            if starting and _is_dead(values["host"], values["pid"]):
                found.append(path)
    return found


def running_here(attempts: Collection[Attempt], session: str) -> list[Attempt]:
    """The attempts of a session whose processes may be alive; one known to be dead is left out."""
    return [a for a in attempts if a.session == session and not _is_dead(a.host, a.pid)]


def _is_dead(host: str, pid: int) -> bool:
    if host != platform.node():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _read(path: AnyPath) -> list[Attempt] | FileProblem:
    """The attempts of one file; none if there is no such file any more."""
    try:
        values = json.loads(path.read_bytes())
        whose = {name: values[name] for name in ("actor", "host", "pid", "session")}
        return [
            Attempt(task_id=task, number=int(value["number"]), begun_at=value["begun_at"], **whose)
            for task, value in values["tasks"].items()
        ]
    except FileNotFoundError:
        return []
    except StorageError:
        # No answer is no damage: the evidence of a death may be in it.
        raise
    except UNREADABLE as error:
        return FileProblem(path, f"no list of attempts: {error!r}")
