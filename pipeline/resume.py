"""What a run is (`run.json`), whether it may go on, and its list of tasks.

A run goes on only with the fingerprint that it began with: the digest of everything that changes a
texture. What is left to do is `pipeline.pending`'s.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.committed import UnreadableFileError, open_parquet
from pipeline.object_store import StorageError
from pipeline.rundir import RunDirectory, write_json_atomic
from pipeline.table_stream import TableStream, stream_parquet, write_stream_atomic

MEND = (
    "put back a copy, or give the same command with another --out and copy the run.json that it "
    "writes"
)
"""What helps against a `run.json` that cannot be used."""


class RunRecordError(ValueError):
    """`run.json` cannot be read."""


class RunMismatchError(ValueError):
    """A run directory belongs to a run of another configuration."""


class FilteredRunError(ValueError):
    """A run directory is the filtered part of another, and takes no new rows."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of `run.json`.

    Attributes:
        config: The whole resolved configuration, nested; JSON values only.
        identity: What changes a texture, nested; the fingerprint is its digest.
        versions: Version by package.
        weights: Weights id.
        weights_sha256: SHA-256 of the weight tensors.
        manifest: Path of the manifest.
        manifest_sha256: SHA-256 of the manifest's bytes.
        root: Folder or URI that the manifest's paths are relative to.
        carried: The manifest columns that are carried into the rows.
        created_at: When the run began, ISO 8601 with time zone.
        filtered: Of what run it is a part, and which, if it is one (`pipeline.filtering`).
    """

    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    versions: Mapping[str, str]
    weights: str
    weights_sha256: str
    manifest: str
    manifest_sha256: str
    root: str
    carried: pa.Schema
    created_at: str
    filtered: Mapping[str, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """Of everything that changes a texture; 16 hex digits."""
        return compute_fingerprint(self.identity)


def compute_fingerprint(values: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of `values` as canonical JSON.

    Raises:
        TypeError: A value has no JSON form.
        ValueError: A value is NaN or infinite.
    """
    text = json.dumps(
        values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_run_record(run: RunDirectory, record: RunRecord) -> None:
    """Write `run.json`, whole or not at all."""
    carried = base64.b64encode(record.carried.serialize().to_pybytes()).decode()
    values = {"fingerprint": record.fingerprint, **vars(record), "carried": carried}
    write_json_atomic(run.run_json, values)


def load_run_record(run: RunDirectory) -> RunRecord | None:
    """The content of `run.json`; None where there is no such file.

    Raises:
        RunRecordError: The file is no run record, or was changed by hand.
        StorageError: An object store does not give it, which says nothing about the file.
    """
    try:
        text = run.run_json.read_bytes()
    except FileNotFoundError:
        return None
    except StorageError:
        raise
    except OSError as error:
        raise RunRecordError(f"{run.run_json}: cannot be read: {error}; {MEND}") from error
    try:
        values = json.loads(text)
        fingerprint = values.pop("fingerprint")
        carried = base64.b64decode(values.pop("carried"), validate=True)
        schema = pa.ipc.read_schema(pa.py_buffer(carried))
        record = RunRecord(**values, carried=schema)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise RunRecordError(f"{run.run_json}: no run record: {error!r}; {MEND}") from error
    if fingerprint != record.fingerprint:
        expected = f"{record.fingerprint!r}, that of its 'identity'"
        raise RunRecordError(
            f"{run.run_json}: fingerprint {fingerprint!r}, expected {expected}; {MEND}"
        )
    return record


def refuse_other_config(old: RunRecord, new: RunRecord) -> None:
    """Refuse to go on with a run under another configuration.

    Raises:
        RunMismatchError: The fingerprints differ; the message has one line per different value,
            as `synthesis.spectrum: "colour" -> "gray"`.
    """
    if old.fingerprint == new.fingerprint:
        return
    before, after = dict(_flatten(old.identity)), dict(_flatten(new.identity))
    names = [name for name in before | after if before.get(name) != after.get(name)]
    lines = [f"  {name}: {_shown(before, name)} -> {_shown(after, name)}" for name in names]
    head = f"the run was made with another configuration ({old.fingerprint} -> {new.fingerprint}):"
    raise RunMismatchError("\n".join([head, *lines, "take these values, or another directory"]))


def refuse_filtered(record: RunRecord) -> None:
    """Refuse to work on a directory that is the filtered part of another run.

    Raises:
        FilteredRunError: Says which run to work on.
    """
    if record.filtered is not None:
        source = record.filtered.get("run")
        raise FilteredRunError(
            f"the directory is the part of run {source!r} that `texsynth filter` found safe, and "
            "takes no new rows, which nothing would have checked; work on that run, and filter it "
            "again"
        )


def write_tasks(run: RunDirectory, tasks: pa.Table | TableStream) -> None:
    """Write `tasks.parquet`, the tasks of the whole manifest, whole or not at all."""
    write_stream_atomic(run.tasks, tasks)


def load_tasks(run: RunDirectory) -> pa.Table:
    """The tasks of the manifest that the run was last given, in its order.

    Raises:
        RunRecordError: As `open_tasks`.
    """
    return open_tasks(run).read()


def open_tasks(run: RunDirectory) -> TableStream:
    """The same as a stream, for who does not need them all at once.

    Raises:
        RunRecordError: `tasks.parquet` is missing or cannot be read; also later, where it is
            damaged further in.
    """
    return stream_parquet(partial(_opened_tasks, run))


@contextmanager
def _opened_tasks(run: RunDirectory) -> Iterator[pq.ParquetFile]:
    try:
        with open_parquet(run.tasks) as file:
            yield file
    except (FileNotFoundError, UnreadableFileError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, UnreadableFileError):
            reason = error.problem.reason
        raise RunRecordError(
            f"{run.tasks}: cannot be read: {reason}; `texsynth run` with the manifest makes it anew"
        ) from error


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def _shown(values: Mapping[str, str], name: str) -> str:
    return values.get(name, "(absent)")
