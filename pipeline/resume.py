"""What a run is (`run.json`), whether it may go on, and which tasks are left.

Resume is an anti-join of the manifest's tasks against the committed rows. A run goes on only with
the fingerprint that it began with: the digest of everything that changes a texture.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.columns import FLAGGED, RETRYABLE
from pipeline.rundir import RunDirectory, write_json_atomic, write_table_atomic
from pipeline.tries import next_seed

KEYS = ("task_id", "status", "attempts", "seed", "accepted", "tries")
"""Columns of the committed rows that tell what is left to do."""
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
    """
    try:
        text = run.run_json.read_bytes()
    except FileNotFoundError:
        return None
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


def pending_tasks(
    tasks: pa.Table,
    committed: pa.Table,
    retry: Collection[str] = (),
    *,
    retry_flagged: int = 0,
) -> pa.Table:
    """The tasks that are left to do.

    Args:
        tasks: All tasks of the manifest, with a column `task_id`, each once.
        committed: The columns KEYS of the committed rows, each task once.
        retry: Statuses of committed rows whose tasks are done again; `flagged` stands for the
            textures that are not accepted.
        retry_flagged: New seeds for each of these textures, those that it had already included.

    Returns:
        The tasks left, in their order, with a column `attempts` (int32), as of its row: 0 for a
        new task. A flagged one has another seed: with its own it would be the same again. All
        others that are done again have the seed of their row.

    Raises:
        ValueError: A task has no id or comes twice, or `retry` has an unknown status.
    """
    unknown = sorted(set(retry) - set(RETRYABLE))
    if unknown:
        raise ValueError(f"retry: got {unknown}, expected some of {', '.join(RETRYABLE)}")
    ids = tasks["task_id"]
    if ids.null_count or pc.count_distinct(ids).as_py() < len(ids):
        twice = [item["values"] for item in pc.value_counts(ids).to_pylist() if item["counts"] > 1]
        raise ValueError(f"tasks: {ids.null_count} without an id, named twice: {twice[:10]}")
    wanted = pa.scalar(True) if FLAGGED in retry else _has_seeds_left(committed, retry_flagged)
    flagged = pc.and_(_is_flagged(committed), wanted)
    named = pc.is_in(committed["status"], pa.array(sorted(retry), pa.string()))
    done = committed.filter(pc.invert(pc.or_(named, flagged)))["task_id"]
    left = tasks.filter(pc.invert(pc.is_in(ids, done)))
    row = pc.index_in(left["task_id"], committed["task_id"])
    attempts = pc.fill_null(committed["attempts"].take(row), 0).cast(pa.int32())
    left = left.append_column("attempts", attempts)
    seeds = pc.coalesce(committed["seed"].take(row), left["seed"])
    reseeded = pc.is_in(left["task_id"], committed.filter(flagged)["task_id"])
    return _with_seeds(left, seeds, reseeded)


def _is_flagged(committed: pa.Table) -> pa.ChunkedArray:
    refused = pc.invert(pc.fill_null(committed["accepted"], True))
    return pc.and_(pc.equal(committed["status"], "ok"), refused)


def _has_seeds_left(committed: pa.Table, retry_flagged: int) -> Any:
    """Whether a texture may be tried again; its first seed was no retry."""
    if not retry_flagged:
        return pa.scalar(False)
    tries = pc.fill_null(pc.list_value_length(committed["tries"]), 1)
    return pc.less_equal(tries, retry_flagged)


def _with_seeds(tasks: pa.Table, seeds: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.Table:
    """The tasks with the given seeds, or ones made of them where `other` says so."""
    rows = tasks.select(["task_id", "attempts"]).append_column("seed", seeds).to_pylist()
    chosen = [
        next_seed(row) if is_other else row["seed"]
        for row, is_other in zip(rows, other.to_pylist(), strict=True)
    ]
    place = tasks.schema.get_field_index("seed")
    return tasks.set_column(place, "seed", pa.array(chosen, pa.int64()))


def write_pending(run: RunDirectory, pending: pa.Table) -> None:
    """Write `pending.parquet`, whole or not at all; with tasks left, the run is no success."""
    if len(pending):
        run.success.unlink(missing_ok=True)
    write_table_atomic(run.pending, pending)


def write_tasks(run: RunDirectory, tasks: pa.Table) -> None:
    """Write `tasks.parquet`, the tasks of the whole manifest, whole or not at all."""
    write_table_atomic(run.tasks, tasks)


def load_tasks(run: RunDirectory) -> pa.Table:
    """The tasks of the manifest that the run was last given, in its order.

    Raises:
        RunRecordError: `tasks.parquet` is missing or cannot be read.
    """
    try:
        return pq.read_table(run.tasks, page_checksum_verification=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
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
