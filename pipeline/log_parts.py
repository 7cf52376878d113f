"""The log of a run on an object store, where nothing can be appended to: parts in `log/`.

Every process has parts of its own, named by the time when it began them, so that they sort by it. A
part is put anew with more lines until it is large; then another is begun. Lines of the last seconds
are in memory only.
"""

from __future__ import annotations

import datetime
import os
import secrets
import threading
import time

from pipeline.storage import ObjectPath, sorted_glob

FLUSH_SECONDS = 10.0
"""The longest time that a line waits for the next one before it is put."""
PART_BYTES = 2**18
"""After which another part is begun: what is put again and again is to stay small."""


class PartWriter:
    """Puts the lines of this process, in parts. Safe to use from several threads.

    Args:
        folder: `log/` of the run.
    """

    def __init__(self, folder: ObjectPath) -> None:
        self._folder = folder
        self._part: ObjectPath | None = None
        self._lines = b""
        self._flushed_at = time.monotonic()
        self._changed = threading.Lock()

    def append(self, line: bytes, *, now: bool = False) -> None:
        """Take over a line, with its end.

        Args:
            line: One line.
            now: Put it now, and what waits with it.

        Raises:
            StorageError: The store does not take it; it is put with the next one.
        """
        with self._changed:
            self._lines += line
            if now or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                self._flush()

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if self._part is None:
            began = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%f")
            name = f"{began}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
            self._part = self._folder / name
        self._part.write_bytes(self._lines)
        if len(self._lines) >= PART_BYTES:
            self._part, self._lines = None, b""


_writers: dict[tuple[int, ObjectPath], PartWriter] = {}


def part_writer(folder: ObjectPath) -> PartWriter:
    """The writer of this process for a run: one, so that its lines stay in order."""
    return _writers.setdefault((os.getpid(), folder), PartWriter(folder))


def read_last_bytes(folder: ObjectPath, size: int) -> bytes:
    """The end of the log: at least so many bytes, or all there are.

    Raises:
        StorageError: The store does not answer.
    """
    data = b""
    for part in reversed(sorted_glob(folder, "*.jsonl")):
        data = part.read_bytes() + data
        if len(data) >= size:
            break
    return data
