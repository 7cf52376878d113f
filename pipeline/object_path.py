"""An object of a store, or a folder of objects, that goes by the names of `pathlib.Path`'s methods.

It has those that the pipeline calls. What an object store lacks, it does without: folders are
nothing but common beginnings of names, an object appears whole or not at all, and nothing can be
renamed or appended to.
"""

from __future__ import annotations

import fnmatch
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.object_reader import ObjectReader
from pipeline.object_store import (
    READ_ONLY,
    READS,
    UPLOADS,
    StorageError,
    call_store,
    describe_object,
    list_folder,
)


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
        """Nothing: a folder is there once an object is in it.

        Raises:
            StorageError: The store is for reading only.
        """
        self.require_writable()

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
        """Remove the object; one that is not there is removed: an attempt before may have done it.

        Args:
            missing_ok: As it is, whatever is given; S3 does not tell.
        """
        self.require_writable()
        with suppress(FileNotFoundError):
            call_store(self.uri, lambda files, path: files.rm_file(path), what="remove")

    def move(self, target: ObjectPath) -> ObjectPath:
        """Copy to another name, then remove this one: for a moment there are both."""
        target.write_bytes(self.read_bytes())
        self.unlink(missing_ok=True)
        return target

    def open(self, mode: str = "rb") -> BinaryIO:
        """The content to read, a range at a time; raises as `stat`."""
        if mode != "rb":
            raise ValueError(f"{self.uri}: mode {mode!r}, expected 'rb'")
        return cast(BinaryIO, ObjectReader(self.uri))

    def require_writable(self) -> None:
        """Refuse a store that is for reading only.

        Raises:
            StorageError: It is; says what to do instead.
        """
        if self.scheme in READ_ONLY:
            raise StorageError(f"{self.uri}: cannot write there: {READ_ONLY[self.scheme]}")

    @contextmanager
    def _putting(self) -> Iterator[None]:
        self.require_writable()
        try:
            yield
        except FileNotFoundError as error:
            bucket = self.parts[0]
            raise StorageError(f"{self.uri}: cannot write it: there is no {bucket}") from error
