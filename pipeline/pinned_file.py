"""A file of an object store, all of whose ranges come from the version that was opened."""

from __future__ import annotations

from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


class ObjectChangedError(OSError):
    """The version of an object that was being read is not there any more."""


class PinnedFile(AbstractBufferedFile):  # type: ignore[misc]
    """Reads through the file system's `read_range(path, details, start, end)`, which it must have.

    Raises:
        FileNotFoundError: There is no such object, or in a later read none any more.
        ObjectChangedError: In a later read: another version has taken its place.
    """

    def _fetch_range(self, start: int, end: int) -> bytes:
        try:
            data: bytes = self.fs.read_range(self.path, self.details, start, end)
        except ObjectChangedError:
            # Who reads a run looks again where a finalize has removed a file: this raises then.
            self.fs.info(self.path)
            raise
        return data


class PinningStore(AbstractFileSystem):  # type: ignore[misc]
    """A file system whose files are read as `PinnedFile`s; put before the one that it changes."""

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, **options)
        return PinnedFile(self, path, mode, **options)
