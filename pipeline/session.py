"""One process at a time works on a run directory.

The lock is the kernel's (`flock`): it ends with the process that holds it, however that dies. On
an object store it is a lease (`pipeline.lease`).
`session.json` says for readers who holds it, and for actors on any node whether they are to go on:
an actor whose session has been asked to stop, or has been followed by another, begins nothing more.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import json
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from filelock import FileLock, Timeout

from pipeline.lease import Lease, LeaseHeldError, is_leased
from pipeline.object_store import StorageError
from pipeline.rundir import RunDirectory, write_json_atomic
from pipeline.storage import ObjectPath, poll_seconds

LOCK_SECONDS = 1.0
"""Longer than a reader holds the lock to see whether it is free."""
POLL_SECONDS = 1.0
"""Between two looks of an actor at `session.json`."""

SessionState = Literal["running", "stopping", "ended"]


class RunBusyError(ValueError):
    """Another process works on the run directory."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """The content of `session.json`.

    Attributes:
        id: Of this session; unlike that of every other.
        host, pid: Where the driver runs.
        begun_at: ISO 8601 with time zone.
        state: `stopping` once the driver was asked to stop; `ended` when it has let go of the run.
        forgiven: Id of the session before, if its driver ended its actors itself: what they had in
            flight then has not killed them.
    """

    id: str
    host: str
    pid: int
    begun_at: str
    state: SessionState = "running"
    forgiven: str | None = None


@contextmanager
def hold_run(run: RunDirectory) -> Iterator[Session]:
    """Be the only process that works on a run, while the context lasts.

    Args:
        run: The run directory, which exists.

    Raises:
        RunBusyError: Another process holds it; the message says which.
        LeaseLostError: On an object store: another process has taken it over meanwhile.
    """
    let_go = _take_lock(run)
    before = load_session(run)
    session = Session(
        forgiven=before.id if before is not None and before.state != "running" else None,
        id=secrets.token_hex(8),
        host=platform.node(),
        pid=os.getpid(),
        begun_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    try:
        _write(run, session)
        yield session
    finally:
        # On a full disk the lock alone says that the run is free.
        with suppress(OSError):
            _write_own(run, dataclasses.replace(session, state="ended"))
        let_go()


def request_stop(run: RunDirectory, session: Session) -> None:
    """Ask the actors of a session to stop: begin nothing, commit what has ended."""
    _write_own(run, dataclasses.replace(session, state="stopping"))


def load_session(run: RunDirectory) -> Session | None:
    """The session that holds the run or was the last to; None if there is none to be read."""
    try:
        return _load(run)
    except StorageError:
        return None


def is_held(run: RunDirectory) -> bool:
    """Whether a process works on the run at this moment."""
    if isinstance(run.path, ObjectPath):
        return is_leased(run.path)
    try:
        descriptor = os.open(str(run.lock), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that several may look at once; closing the file lets go.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class StopWatch:
    """Tells an actor whether its session goes on; reads the file once a second at most.

    On an object store every five seconds.

    Args:
        run: The run directory.

    Raises:
        StorageError: The store does not answer.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        # An actor that knows no session would never stop.
        self._session = _load(run)
        self._looked_at = time.monotonic()
        self._stopped = False
        self._poll_s = max(POLL_SECONDS, poll_seconds(run.path))

    @property
    def session_id(self) -> str | None:
        """Of the session that this actor belongs to; None outside any."""
        return self._session.id if self._session else None

    def stopped(self, *, now: bool = False) -> bool:
        """Whether the session was asked to stop, or another has begun.

        Args:
            now: Look at the file, however short the last look is ago.
        """
        if self._session is None or self._stopped:
            return self._stopped
        if now or time.monotonic() - self._looked_at >= self._poll_s:
            self._looked_at = time.monotonic()
            current = load_session(self._run)
            running = (self._session.id, "running")
            self._stopped = current is not None and (current.id, current.state) != running
        return self._stopped


def _take_lock(run: RunDirectory) -> Callable[[], None]:
    """Take the lock of a run; gives what lets it go."""
    try:
        if isinstance(run.path, ObjectPath):
            return Lease(run.path).close
        lock = FileLock(str(run.lock), timeout=LOCK_SECONDS)
        lock.acquire()
    except (Timeout, LeaseHeldError) as error:
        raise RunBusyError(_describe_holder(run)) from error
    return lock.release


def _load(run: RunDirectory) -> Session | None:
    """As `load_session`, but who does not answer is not taken for one who has none."""
    try:
        return Session(**json.loads(run.session.read_bytes()))
    except StorageError:
        raise
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _write_own(run: RunDirectory, session: Session) -> None:
    """Write what has become of a session, unless another has followed it.

    Where a store does not say whether one has, nothing is written.
    """
    current = _load(run)
    if current is None or current.id == session.id:
        _write(run, session)


def _write(run: RunDirectory, session: Session) -> None:
    write_json_atomic(run.session, dataclasses.asdict(session))


def _describe_holder(run: RunDirectory) -> str:
    session = load_session(run)
    holder = "another process"
    if session is not None:
        holder = f"process {session.pid} on {session.host} since {session.begun_at}"
    return (
        f"run directory {str(run.path)!r} is being worked on by {holder}; expected one run at a "
        "time: wait for its end, or stop it (the lock ends with the process, in an object store up "
        "to a minute later)"
    )
