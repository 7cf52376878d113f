"""Reading an object of a store a range at a time, as a file is read."""

from __future__ import annotations

import io
from typing import Any

from pipeline.object_store import StorageError, call_store


class ObjectReader(io.RawIOBase):
    """Reads ranges of one version of an object; each is one request, which is tried again.

    Args:
        uri: Of the object.

    Raises:
        FileNotFoundError: There is no such object.
        StorageError: The store does not answer, now or in a later call.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        # Of the store's own: it refuses to mix the bytes of two versions, where it can.
        self._file: Any = call_store(uri, lambda files, path: files.open(path, cache_type="none"))
        self._at = 0
        self._size = int(self._file.size)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins, bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Choose where the next read begins; no request."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, fewer at the end; all that are left for a negative number."""
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        data = call_store(self._uri, lambda _files, _path: self._read_range(end))
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; gives the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read_range(self, end: int) -> bytes:
        self._file.seek(self._at)
        data: bytes = self._file.read(end - self._at)
        if len(data) != end - self._at:
            raise StorageError(f"{self._uri}: got {len(data)} bytes, expected {end - self._at}")
        return data
