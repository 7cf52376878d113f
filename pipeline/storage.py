"""Places of files: local paths, and objects of a store.

A run directory, a manifest, images and weights may be named by a URI; `as_path` makes an
`ObjectPath` of it, and a `Path` of anything else.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.object_path import ObjectPath
from pipeline.object_store import DOWNLOADS, PACKAGES, call_store, find_scheme, open_filesystem

__all__ = [
    "AnyPath",
    "ObjectPath",
    "RemotePathError",
    "arrow_place",
    "as_path",
    "download",
    "is_uri",
    "lies_in",
    "list_entries",
    "local_copy",
    "poll_seconds",
    "require_local",
    "sorted_glob",
]

STORE_POLL_SECONDS = 5.0
SQUEEZED = re.compile(rf"({'|'.join(PACKAGES)}):/+(?=[^/])")
"""The beginning of a URI, also of one that has lost a slash by going through `Path`."""


class RemotePathError(ValueError):
    """A URI was given where a local path is needed."""


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


def lies_in(path: AnyPath, folder: AnyPath) -> bool:
    """Whether a path is a folder, or something below it, once links are followed."""
    if isinstance(path, Path) and isinstance(folder, Path):
        return path.resolve().is_relative_to(folder.resolve())
    return f"{path}/".startswith(f"{folder}/")


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
    options = DOWNLOADS.get(path.scheme, {})
    call_store(path.uri, lambda files, name: files.get_file(name, str(file), **options))
