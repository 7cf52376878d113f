"""A lock in a folder that is removed or renamed, lock and all, by the last who holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

LOCK_SECONDS = 0.5


@contextmanager
def hold_folder(folder: Path, name: str) -> Iterator[None]:
    """Be the only process that works in a folder, which is made if need be.

    Args:
        folder: The folder.
        name: Of the lock's file in it.

    Raises:
        filelock.Timeout: Another process does.
    """
    lock = FileLock(folder / name, timeout=LOCK_SECONDS)
    while not lock.is_locked:
        folder.mkdir(parents=True, exist_ok=True)
        # Who had the lock may have ended, and the folder gone with it, since it was made.
        with suppress(FileNotFoundError):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
