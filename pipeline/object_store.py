"""Object stores as one kind of place: S3, Google Cloud, Azure and Hugging Face, through fsspec.

Listings are never cached: the commit protocol needs to see what other processes have just written.
Every call is tried a few times, and its error names the object. What is special about the clients
of Google and Azure is in `google_store` and `azure_store`, imported where they are used.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.store_errors import is_missing, may_pass

EXTRAS = {"s3": "s3", "gs": "gs", "az": "az", "hf": "hf"}
"""What `pip install texsynth[...]` is to be given, by scheme."""
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}
"""What speaks to the store, by scheme."""
CONDITIONAL = ("s3", "gs", "az")
"""Schemes of stores that decide themselves which of several puts a new object first."""
READ_ONLY = {
    "hf": "each file would be a commit, of which the Hub takes few an hour, and of two writers "
    "none is refused; write to a disk, s3://, gs:// or az://, and 'hf upload' what is finished"
}
"""Schemes of stores that nothing is written to, and why."""
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            # The client repeats what fails at once; what goes on failing is waited for here.
            "retries": {"mode": "standard", "total_max_attempts": 2},
            "connect_timeout": 10.0,
            "read_timeout": 30.0,
            # Files are read side by side; with ten, as the client has it, they wait for each other.
            "max_pool_connections": 64,
        }
    },
}
"""Of the file systems, by scheme; credentials and endpoints come from each one's environment."""
UPLOADS: dict[str, dict[str, Any]] = {
    "s3": {"chunksize": 2**24},
    "gs": {"chunksize": 2**24},
    # Of parts that are sent side by side, Azure's client reports one failure and prints the others.
    "az": {"max_concurrency": 1},
}
"""Of files, by scheme: what has two parts or more goes in parts; a lost one is sent again."""
READS: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}}
"""Of whole objects, by scheme: in one request, without asking for the size before."""
DOWNLOADS: dict[str, dict[str, Any]] = {"gs": {"concurrency": 1}}
"""Of whole objects to files, by scheme: likewise."""
VERSIONS = ("ETag", "generation", "etag", "blob_id")
"""What S3, Google, Azure and Hugging Face call what changes with the content of an object."""
ATTEMPTS = 6
"""Of every call, beside those that the store's client makes by itself."""
PATIENT = {"hf": 2}
"""Attempts where the client itself waits for half a minute, and cannot be told not to."""
FIRST_WAIT_SECONDS = 0.5
"""Before the second attempt; doubled each time, and drawn so that many clients do not meet."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class StorageError(OSError):
    """An object store does not do what it was asked; the message names the object."""


class MissingPackageError(ValueError):
    """The package that speaks to a kind of object store is not installed."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says of one object, or of a folder.

    Attributes:
        uri: Of the object.
        size: Bytes.
        modified: By the store's clock, s since 1970; 0 where it does not say.
        version: Changes with the content: its ETag, or the like.
        is_folder: It only stands for the objects below it.
    """

    uri: str
    size: int
    modified: float
    version: str
    is_folder: bool


def find_scheme(text: str) -> str | None:
    """The scheme of the URI of an object store that we know; None for anything else."""
    scheme, separator, _ = text.partition("://")
    return scheme if separator and scheme in PACKAGES else None


def open_filesystem(scheme: str) -> Any:
    """The fsspec file system of a scheme, one for each process.

    Raises:
        MissingPackageError: Its package is not installed; says which extra brings it.
    """
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        raise MissingPackageError(
            f"'{scheme}://' needs the package {PACKAGES[scheme]}, which is not installed; "
            f"pip install 'texsynth[{EXTRAS[scheme]}]'"
        )
    if scheme == "gs":
        from pipeline.google_store import GoogleStore

        return GoogleStore(use_listings_cache=False)
    if scheme == "az":
        from pipeline.azure_store import AzureStore

        return AzureStore(use_listings_cache=False)
    import fsspec

    filesystem = fsspec.filesystem(scheme, use_listings_cache=False, **OPTIONS.get(scheme, {}))
    if scheme == "s3":
        # Another layer of attempts between the client's and ours would make minutes of seconds.
        filesystem.retries = 1
    return filesystem


def locate_uri(uri: str) -> Path | Callable[[], Any]:
    """A local path, or what opens a stream of bytes, for a URI of any file system of fsspec.

    Raises:
        ValueError, ImportError: It knows none of this scheme, or needs a package for it.
    """
    if uri.startswith("file://"):
        return Path(url2pathname(urlsplit(uri).path))
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    filesystem, place = fsspec.core.url_to_fs(uri)
    is_local = isinstance(filesystem, LocalFileSystem)
    return Path(place) if is_local else partial(filesystem.open, place, "rb")


def call_store(uri: str, act: Callable[[Any, str], Result], *, what: str = "read") -> Result:
    """Do something with an object; tried again, a few times, where the store or the line fails.

    Args:
        uri: Of the object.
        act: Gets the file system and the object's path in it.
        what: Is done, for the message.

    Raises:
        FileNotFoundError, FileExistsError: As the store says.
        StorageError: It did not work; `__cause__` is the store's own error.
    """
    scheme = uri.partition("://")[0]
    filesystem = open_filesystem(scheme)
    path = filesystem._strip_protocol(uri)
    attempts = min(ATTEMPTS, PATIENT.get(scheme, ATTEMPTS))
    for attempt in range(1, attempts + 1):
        try:
            return act(filesystem, path)
        except FileExistsError as error:
            raise FileExistsError(errno.EEXIST, "the object exists", uri) from error
        except Exception as error:  # every store has classes of errors of its own
            if is_missing(error):
                raise FileNotFoundError(errno.ENOENT, "no such object", uri) from error
            if attempt == attempts or not may_pass(error):
                often = f" after {attempt} attempts" if attempt > 1 else ""
                raise StorageError(
                    f"{uri}: cannot {what} it{often}: "
                    f"{type(error).__name__}: {' '.join(str(error).split())}"
                ) from error
            logger.info("%s: %r; attempt %d of %d", uri, error, attempt, attempts)
            wait_s = FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
            time.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311 (no secret)
    raise AssertionError("unreachable")


def describe_object(uri: str) -> ObjectInfo:
    """What the store says of an object or a folder.

    Raises:
        FileNotFoundError: There is neither.
        StorageError: The store does not answer.
    """

    def look(filesystem: Any, path: str) -> ObjectInfo:
        filesystem.invalidate_cache(path)
        return _to_info(uri, filesystem.info(path))

    return call_store(uri, look)


def list_folder(uri: str) -> list[ObjectInfo]:
    """What lies directly in a folder, by name; nothing if there is no such folder.

    Raises:
        StorageError: The store does not answer.
    """

    def look(filesystem: Any, path: str) -> list[ObjectInfo]:
        filesystem.invalidate_cache(path)
        try:
            entries = filesystem.ls(path, detail=True)
        except FileNotFoundError:
            return []
        found = [(str(entry["name"]).rstrip("/").rpartition("/")[2], entry) for entry in entries]
        # A marker of the folder itself, and the object where a file was asked for, are no entries.
        inside = [(n, e) for n, e in found if str(e["name"]).rstrip("/") != path.rstrip("/")]
        return [_to_info(f"{uri}/{name}", entry) for name, entry in sorted(inside, key=_first)]

    return call_store(uri, look, what="list")


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _to_info(uri: str, values: dict[str, Any]) -> ObjectInfo:
    """One form for what file systems call by different names."""
    modified = values.get("LastModified") or values.get("mtime") or values.get("last_modified")
    version = next(filter(None, map(values.get, VERSIONS)), modified)
    if isinstance(modified, str):
        modified = _parse_time(modified)
    elif modified is not None and not isinstance(modified, int | float):
        modified = modified.timestamp()
    return ObjectInfo(
        uri=uri,
        size=int(values.get("size") or 0),
        modified=float(modified or 0.0),
        version=str(version or ""),
        is_folder=values["type"] == "directory",
    )


def _parse_time(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
