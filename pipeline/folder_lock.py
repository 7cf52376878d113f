"""A lock in a folder that is removed or renamed, lock and all, by the last who holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.lease import Lease, LeaseHeldError
from pipeline.storage import AnyPath, ObjectPath

LOCK_SECONDS = 0.5


class FolderBusyError(Exception):
    """Another process works in the folder."""


@contextmanager
def hold_folder(folder: AnyPath, name: str) -> Iterator[Callable[[], bool]]:
    """Be the only process that works in a folder, which is made if need be.

    Args:
        folder: The folder; in an object store the lock is a lease, of which nothing is left.
        name: Of the lock's file in it, where that is a local one.

    Yields:
        What tells whether that is so still; of a lease it asks the store.

    Raises:
        FolderBusyError: Another process does.
        LeaseLostError: Another process has taken the lease over meanwhile.
    """
    if isinstance(folder, ObjectPath):
        with _leased(folder) as lease:
            yield lease.is_held
        return
    lock = FileLock(folder / name, timeout=LOCK_SECONDS)
    try:
        while not lock.is_locked:
            _make(folder)
            # Who had the lock may have ended, and the folder gone with it, since it was made.
            with suppress(FileNotFoundError):
                lock.acquire()
    except Timeout as error:
        raise FolderBusyError(f"'{folder}' is locked") from error
    try:
        yield lambda: True
    finally:
        lock.release()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        # It was there, and was removed before `mkdir` could see that it is a folder.
        if folder.exists() and not folder.is_dir():
            raise


@contextmanager
def _leased(folder: ObjectPath) -> Iterator[Lease]:
    try:
        lease = Lease(folder)
    except LeaseHeldError as error:
        raise FolderBusyError(f"'{folder}' is locked") from error
    try:
        yield lease
    finally:
        lease.close(forget=True)
