"""Places of files: local paths, and objects of a store that go by the same names of methods.

A run directory, a manifest, images and weights may be named by a URI; `as_path` makes an
`ObjectPath` of it. That has those methods of `pathlib.Path` which the pipeline calls. What an
object store lacks, it does without: folders are nothing but common beginnings of names, an object
appears whole or not at all, and nothing can be renamed or appended to.
"""

from __future__ import annotations

import fnmatch
import io
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.object_store import (
    PACKAGES,
    READS,
    UPLOADS,
    StorageError,
    call_store,
    describe_object,
    find_scheme,
    list_folder,
    open_filesystem,
)

STORE_POLL_SECONDS = 5.0
SQUEEZED = re.compile(rf"({'|'.join(PACKAGES)}):/+(?=[^/])")
"""The beginning of a URI, also of one that has lost a slash by going through `Path`."""


class RemotePathError(ValueError):
    """A URI was given where a local path is needed."""


@dataclass(frozen=True)
class ObjectStat:
    """What `stat` says of an object, by the names that `os.stat_result` has.

    Attributes:
        st_size: Bytes.
        st_mtime: By the store's clock, s since 1970.
        st_mtime_ns: Likewise, ns.
        st_mode: Of a regular file, or of a folder.
        version: Changes with the content: its ETag, or the like.
    """

    st_size: int
    st_mtime: float
    st_mtime_ns: int
    st_mode: int
    version: str


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or a folder of objects, by its URI without a slash at its end."""

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.uri}/{name}")

    @property
    def scheme(self) -> str:
        """What the URI begins with, as `s3`."""
        return self.uri.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part less its suffix."""
        return self.name.removesuffix(self.suffix)

    @property
    def suffix(self) -> str:
        """From the last dot of the last part; empty if there is none."""
        return Path(self.name).suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket with its scheme, then every name."""
        scheme, _, rest = self.uri.partition("://")
        bucket, *names = rest.split("/")
        return (f"{scheme}://{bucket}", *names)

    @property
    def parent(self) -> ObjectPath:
        """The folder; of a bucket, itself."""
        *folder, _ = self.parts
        return ObjectPath("/".join(folder)) if folder else self

    def with_name(self, name: str) -> ObjectPath:
        """The neighbour of this name."""
        return self.parent / name

    def absolute(self) -> ObjectPath:
        """Itself: a URI is."""
        return self

    def resolve(self) -> ObjectPath:
        """Itself: no object is a link."""
        return self

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def stat(self, *, follow_symlinks: bool = True) -> ObjectStat:
        """Size, time and kind.

        Raises:
            FileNotFoundError: There is no such object, nor any below it.
        """
        found = describe_object(self.uri)
        kind = stat.S_IFDIR if found.is_folder else stat.S_IFREG
        return ObjectStat(
            st_size=found.size,
            st_mtime=found.modified,
            st_mtime_ns=round(found.modified * 1e9),
            st_mode=kind,
            version=found.version,
        )

    def exists(self) -> bool:
        """Whether there is such an object, or any below it."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            return stat.S_ISREG(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether there is any object below it."""
        try:
            return stat.S_ISDIR(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def iterdir(self) -> Iterator[ObjectPath]:
        """What lies directly in the folder, by name; nothing where there is none."""
        return iter([ObjectPath(found.uri) for found in list_folder(self.uri)])

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """What lies directly in the folder and has a name of this pattern, which has no slash."""
        return iter([path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern)])

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there once an object is in it."""

    def read_bytes(self) -> bytes:
        """The content, in one request; raises as `stat`."""
        options = READS.get(self.scheme, {})
        return call_store(
            self.uri, lambda files, path: cast(bytes, files.cat_file(path, **options))
        )

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text; raises as `stat`."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes, *, new: bool = False) -> None:
        """Put an object, which appears whole or not at all, in place of an earlier one.

        Args:
            data: The content.
            new: Only if there is none; the store decides between several who try at once.

        Raises:
            FileExistsError: There is one, and a new one was wanted. It may be what an earlier
                attempt of this call has put before its answer was lost.
            StorageError: It cannot be put.
        """
        mode = {"mode": "create"} if new else {}
        with self._putting():
            call_store(
                self.uri, lambda files, path: files.pipe_file(path, data, **mode), what="write"
            )

    def upload(self, file: Path) -> None:
        """Put a local file, likewise; one of several parts appears with its last, or leaves none.

        Raises:
            StorageError: It cannot be put.
        """
        with self._putting():
            options = UPLOADS.get(self.scheme, {})
            call_store(
                self.uri,
                lambda files, path: files.put_file(str(file), path, **options),
                what="write",
            )

    def touch(self) -> None:
        """Put an empty object."""
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object; for most stores one that is not there is removed as well."""
        try:
            call_store(self.uri, lambda files, path: files.rm_file(path), what="remove")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def move(self, target: ObjectPath) -> ObjectPath:
        """Copy to another name, then remove this one: for a moment there are both."""
        target.write_bytes(self.read_bytes())
        self.unlink(missing_ok=True)
        return target

    def open(self, mode: str = "rb") -> BinaryIO:
        """The content to read, a range at a time; raises as `stat`."""
        if mode != "rb":
            raise ValueError(f"{self.uri}: mode {mode!r}, expected 'rb'")
        return cast(BinaryIO, _ObjectReader(self.uri))

    @contextmanager
    def _putting(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            bucket = self.parts[0]
            raise StorageError(f"{self.uri}: cannot write it: there is no {bucket}") from error


AnyPath = Path | ObjectPath


def as_path(place: str | Path | ObjectPath) -> AnyPath:
    """The place that a path or URI names.

    Raises:
        MissingPackageError: When it is used: the package of this kind of store is not installed.
    """
    if isinstance(place, ObjectPath):
        return place
    text = str(place)
    begin = SQUEEZED.match(text)
    if begin is None:
        return Path(place)
    return ObjectPath(f"{begin[1]}://{text[begin.end() :].rstrip('/')}")


def poll_seconds(folder: AnyPath) -> float:
    """The least time between two looks at what others write, s: of a store they are paid for."""
    return STORE_POLL_SECONDS if isinstance(folder, ObjectPath) else 0.0


def require_local(path: AnyPath, what: str) -> Path:
    """The same path, where only a local one will do.

    Args:
        path: Any.
        what: It is, for the message.

    Raises:
        RemotePathError: It is a URI.
    """
    if isinstance(path, ObjectPath):
        raise RemotePathError(f"{what} is {path.uri!r}, expected a local path")
    return path


def list_entries(folder: AnyPath) -> list[AnyPath]:
    """What lies directly in a folder, by name; raises as `Path.iterdir` does."""
    entries: list[AnyPath] = list(folder.iterdir())
    return sorted(entries, key=str)


def sorted_glob(folder: AnyPath, pattern: str) -> list[AnyPath]:
    """What lies directly in a folder and has a name of this pattern, by name."""
    return sorted(folder.glob(pattern), key=str)


def is_uri(text: str) -> bool:
    """Whether a text names something in an object store that we know."""
    return find_scheme(text) is not None


def arrow_place(path: AnyPath) -> tuple[str, Any]:
    """A path as Arrow wants it, and the file system that it is in; None for a local one."""
    if isinstance(path, Path):
        return str(path), None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem = open_filesystem(path.scheme)
    return path.uri.partition("://")[2], PyFileSystem(FSSpecHandler(filesystem))


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """A local file with the content, in the block: itself, or a temporary copy.

    Raises:
        FileNotFoundError: There is no such object.
        StorageError: It cannot be read.
    """
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="texsynth-") as folder:
        copy = Path(folder) / path.name
        download(path, copy)
        yield copy


def download(path: ObjectPath, file: Path) -> None:
    """Write the content to a local file; raises as `local_copy`."""
    call_store(path.uri, lambda files, name: files.get_file(name, str(file)))


class _ObjectReader(io.RawIOBase):
    """Reads ranges of one version of an object; each is one request, which is tried again."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        # Of the store's own: it refuses to mix the bytes of two versions, where it can.
        self._file: Any = call_store(uri, lambda files, path: files.open(path, cache_type="none"))
        self._at = 0
        self._size = int(self._file.size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        data = call_store(self._uri, lambda _files, _path: self._read_range(end))
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read_range(self, end: int) -> bytes:
        self._file.seek(self._at)
        data: bytes = self._file.read(end - self._at)
        if len(data) != end - self._at:
            raise StorageError(f"{self._uri}: got {len(data)} bytes, expected {end - self._at}")
        return data
