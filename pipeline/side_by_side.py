"""The same done to many files at once, in threads, with what comes out in order.

Arrow and the clients of object stores let other threads work while they read, decode and wait.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from pipeline.storage import AnyPath, ObjectPath

STORE_THREADS = 16
"""Files of an object store, each of which waits for a few answers."""
LOCAL_THREADS = min(8, os.cpu_count() or 1)
"""Files of a disk, where the cores set the limit."""

Place = TypeVar("Place", bound=AnyPath)
Found = TypeVar("Found")


def do_side_by_side(
    act: Callable[[Place], Found],
    paths: Sequence[Place],
    *,
    at_most: int = STORE_THREADS,
    ended: threading.Event | None = None,
) -> Iterator[Found]:
    """What `act` gives for each of some files, in their order; the first error ends it.

    Args:
        act: Safe to call from several threads. It begins few more than have been taken.
        paths: All of one store, or all local.
        at_most: So many at a time, where their number makes a difference in memory.
        ended: Set when nobody takes what comes out any more, be it after an error or Ctrl-C. What
            has been begun is waited for: where it takes long, `act` looks at this.
    """
    is_remote = bool(paths) and isinstance(paths[0], ObjectPath)
    threads = min(STORE_THREADS if is_remote else LOCAL_THREADS, at_most, len(paths))
    if threads < 2:
        yield from map(act, paths)
        return
    left = iter(paths)
    pool = ThreadPoolExecutor(threads)
    try:
        begun = deque(pool.submit(act, path) for path in islice(left, 2 * threads))
        while begun:
            found = begun.popleft().result()
            begun.extend(pool.submit(act, path) for path in islice(left, 1))
            yield found
    finally:
        if ended is not None:
            ended.set()
        pool.shutdown(cancel_futures=True)


def remove_side_by_side(paths: Sequence[AnyPath]) -> None:
    """Remove files that may be gone already; of a store each removal is a request."""
    for _ in do_side_by_side(lambda path: path.unlink(missing_ok=True), paths):
        pass
