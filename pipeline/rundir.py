"""The paths of a run directory, and writes that are whole or not there.

A file is written beside its place under a name that readers pass over (`_tmp-*.tmp`), synced to
the disk, and renamed; the directory is synced after it. An error leaves no file under either name.
An object is written to a local temporary file and put, which makes it appear at once.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.locks import is_lease_file
from pipeline.object_store import CONDITIONAL, StorageError
from pipeline.storage import AnyPath, ObjectPath, as_path, sorted_glob

TEMPORARY_PREFIX = "_tmp-"
REPLACED_PREFIX = "_replaced-"
DAMAGED_SUFFIX = ".damaged"
PREPARING_SUFFIX = ".preparing"
"""Of the mark that a block leaves in `attempts/` while its exemplars are prepared."""
BEGUN_SUFFIX = ".begun"
"""Of the mark that an actor leaves there for a block that it begins."""
MARK_SUFFIXES = (PREPARING_SUFFIX, BEGUN_SUFFIX)
"""Of empty files."""


class NotARunError(ValueError):
    """A path is no run directory."""


@dataclass(frozen=True)
class RunDirectory:
    """One output directory: the place of everything that a run writes.

    Attributes:
        path: A local folder, or one of an object store: then an `ObjectPath`, also where a URI was
            given as text or as a `Path`.
    """

    path: AnyPath

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", as_path(self.path))

    @property
    def run_json(self) -> AnyPath:
        """Resolved configuration, fingerprint, versions; written before work starts."""
        return self.path / "run.json"

    @property
    def tasks(self) -> AnyPath:
        """All tasks of the manifest, as last given; what verify, retry and replay go by."""
        return self.path / "tasks.parquet"

    @property
    def pending(self) -> AnyPath:
        """The tasks that this session began with."""
        return self.path / "pending.parquet"

    @property
    def lock(self) -> AnyPath:
        """Held by the process that works on the run, released by the kernel when it dies."""
        return self.path / ".lock"

    @property
    def session(self) -> AnyPath:
        """Who works on the run, since when, and whether it was asked to stop."""
        return self.path / "session.json"

    @property
    def attempts(self) -> AnyPath:
        """What every actor has in flight, one file per actor; written before work starts."""
        return self.path / "attempts"

    @property
    def checkpoints(self) -> AnyPath:
        """Textures in the making, one file per task; removed when its row is committed."""
        return self.path / "checkpoints"

    @property
    def log(self) -> AnyPath:
        """One JSON object per line: sessions, ends of tasks, problems."""
        return self.path / "log.jsonl"

    @property
    def log_parts(self) -> AnyPath:
        """On an object store, where nothing can be appended to: the log in parts."""
        return self.path / "log"

    @property
    def shards(self) -> AnyPath:
        """Committed rows, one file per flush."""
        return self.path / "shards"

    @property
    def textures(self) -> AnyPath:
        """Committed rows after finalize, compacted and sorted. Only finalize makes this folder."""
        return self.path / "textures"

    @property
    def metrics(self) -> AnyPath:
        """After finalize: all columns but the pictures."""
        return self.path / "metrics.parquet"

    @property
    def report(self) -> AnyPath:
        """Gallery and plots."""
        return self.path / "report"

    @property
    def success(self) -> AnyPath:
        """Marker: finalized, and no task is missing."""
        return self.path / "_SUCCESS"

    def create(self) -> None:
        """Make the folders that a run writes to."""
        for folder in (self.shards, self.attempts, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)

    def name_of(self, path: AnyPath) -> str:
        """A path in the directory as seen from it."""
        return str(path).removeprefix(f"{self.path}/")

    def replaced(self) -> list[AnyPath]:
        """Earlier texture folders that a finalize put aside and has not yet removed."""
        if isinstance(self.path, ObjectPath):
            return []
        return sorted_glob(self.path, f"{REPLACED_PREFIX}*")

    def folders(self) -> dict[AnyPath, tuple[str, ...]]:
        """The folders of files that a run reads, and how the names of these files end."""
        logs = {self.log_parts: (".jsonl",)} if isinstance(self.path, ObjectPath) else {}
        return logs | {
            self.shards: (".parquet",),
            self.textures: (".parquet",),
            self.attempts: (".json", *MARK_SUFFIXES),
            self.checkpoints: (".safetensors",),
        }

    def is_own(self, path: AnyPath) -> bool:
        """Whether something in the directory, or in one of its folders, has a name of the run's."""
        if path.name.startswith(TEMPORARY_PREFIX) or is_lease_file(path.name):
            return True
        suffixes = self.folders().get(path.parent)
        if suffixes is not None:
            return path.suffix in suffixes
        aside = path.name.startswith(REPLACED_PREFIX) or path.name.endswith(DAMAGED_SUFFIX)
        return aside or path in self._named()

    def _named(self) -> set[AnyPath]:
        """Everything that this class has a name for."""
        names = [name for name, value in vars(type(self)).items() if isinstance(value, property)]
        return {getattr(self, name) for name in names}

    def temporaries(self) -> list[AnyPath]:
        """Files whose writing has not ended: of writers at work, or that were killed."""
        if isinstance(self.path, ObjectPath):
            return []
        pattern = f"{TEMPORARY_PREFIX}*.tmp"
        folders = (self.path, self.shards, self.attempts, self.checkpoints)
        return [path for folder in folders for path in folder.glob(pattern)]


def require_run(run: RunDirectory) -> None:
    """Refuse what is no run directory; a damaged one is taken.

    Raises:
        NotARunError: There is no such folder, or nothing of a run is in it.
    """
    marks = (run.run_json, run.tasks, run.session, run.shards, run.textures, run.metrics)
    if not run.path.is_dir() or not any(path.exists() for path in marks):
        raise NotARunError(
            f"{str(run.path)!r} is no run directory, expected a folder that `texsynth run` made"
            f"{_missing_bucket(run.path)}"
        )


def _missing_bucket(path: AnyPath) -> str:
    """Words for the end of a message, if the bucket of a URI is not there."""
    if isinstance(path, ObjectPath) and path.scheme in CONDITIONAL:
        bucket = ObjectPath(path.parts[0])
        # Who may not look at all of a bucket may be allowed a folder of it.
        with suppress(StorageError):
            return "" if bucket.exists() else f"; there is no {bucket}"
    return ""


@contextmanager
def atomic_path(path: AnyPath) -> Iterator[Path]:
    """Give a temporary local path to write to, which takes the place of `path` at the end.

    Raises:
        OSError: The disk is full, or the like; then nothing has changed. It names the file.
    """
    if isinstance(path, ObjectPath):
        with tempfile.TemporaryDirectory(prefix="texsynth-") as folder, naming(path):
            local = Path(folder) / path.name
            yield local
            path.upload(local)
        return
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{unique}.tmp")
    try:
        with naming(path):
            yield temporary
            sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def naming(path: AnyPath) -> Iterator[None]:
    """Errors of the system that name no file, as those of a write do not, name this one."""
    try:
        yield
    except OSError as error:
        # Something else was missing, and who looked for it says what.
        if error.errno in (None, errno.ENOENT) or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def sync(path: Path) -> None:
    """Force a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json_atomic(path: AnyPath, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table_atomic(path: AnyPath, table: pa.Table) -> None:
    """Write a Parquet file, whole or not at all."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
