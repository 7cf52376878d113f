"""What is checked before a run begins, or goes on, or is planned; nothing is written here."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch

import texsynth
from pipeline.blends import expand_blends
from pipeline.config import RunConfig
from pipeline.downloads import load_network
from pipeline.manifest import Manifest, load_manifest
from pipeline.prepare import PREPARED
from pipeline.resume import (
    RunMismatchError,
    RunRecord,
    load_run_record,
    refuse_filtered,
    refuse_other_config,
)
from pipeline.rundir import RunDirectory
from pipeline.schema import RESERVED_COLUMNS, row_schema
from pipeline.splits import select_split
from pipeline.storage import ObjectPath
from pipeline.table_stream import Columns, TableStream, stream_table
from pipeline.tasks import TASK_COLUMNS, Counts, expand_batches, expand_tasks
from texsynth.config import ConfigError
from texsynth.levels import compute_levels
from texsynth.synthesis import make_batches

THRESHOLDS = (
    *("loss_threshold", "copy_displacement_threshold", "copy_layout_threshold", "flag_rules"),
)
"""Settings that change no texture but stand in every row beside the flags made with them."""
SELECTION = ("partition", "split")
"""Settings that change no texture but say which exemplars a run may use."""


class RunDirectoryError(ValueError):
    """The output directory holds something else."""


def _refuse_other_folder(run: RunDirectory) -> None:
    """Raise unless a run may be begun or continued here: finalize replaces what has its names.

    Raises:
        RunDirectoryError: The path is a file, or a folder that holds something of the user's.
        StorageError: Nothing is written to this kind of store.
    """
    if isinstance(run.path, ObjectPath):
        run.path.require_writable()
    if run.path.exists() and not run.path.is_dir():
        raise RunDirectoryError(f"out {str(run.path)!r} is a file, expected a folder or nothing")
    if not run.path.is_dir() or run.run_json.exists():
        return
    ours = {*run.folders(), run.tasks, run.session, run.log, *run.temporaries()} - {run.textures}
    other = [p.name for p in run.path.iterdir() if p not in ours and not p.name.startswith(".")]
    if other or any(run.shards.glob("*.parquet")):
        got = ", ".join(repr(name) for name in sorted(other or ["shards"])[:5])
        raise RunDirectoryError(
            f"out {str(run.path)!r} has no run.json but holds {got}; expected a run directory, an "
            "empty folder, or nothing"
        )


def require_device(config: RunConfig) -> None:
    """Refuse a device that this machine lacks; a cluster's machines are not looked at.

    Raises:
        ConfigError: There is no such device, or Ray is to choose it.
    """
    if config.executor == "ray" and config.device is not None and ":" in config.device:
        raise ConfigError(
            f"device is {config.device!r} with executor 'ray', which hands out the devices itself; "
            "expected cpu or cuda"
        )
    local = config.executor == "inline" or config.address is None
    if local and config.device is not None and config.device != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(config.device.partition(":")[2] or 0) >= count:
            raise ConfigError(f"device is {config.device!r}, this machine has {count} CUDA devices")


@dataclass(frozen=True)
class CheckedRun:
    """What a run is to do, found good.

    Args:
        tasks: of the manifest, as `expand_tasks` makes them, which is done whenever they are read.
        record: what `run.json` is to say.
        network: the weights, on the CPU.
    """

    tasks: TableStream
    record: RunRecord
    network: texsynth.TextureNetwork


def check_run(manifest_path: Path, config: RunConfig, run: RunDirectory | None) -> CheckedRun:
    """Read the manifest, load the weights, try the levels, and compare with what a run holds.

    Args:
        manifest_path: CSV or Parquet, see `manifests/README.md`.
        config: resolved.
        run: run directory to continue or begin; None for none.

    Raises:
        ManifestError: the manifest cannot be read.
        SplitError: it has no rows of the split, or does not say which they are.
        WeightsError, ConfigError, TapError: the settings cannot give a texture.
        SchemaError: the manifest has columns that rows have no room for.
        RunDirectoryError, RunRecordError, RunMismatchError, FilteredRunError: `run` is not this
            run's.
    """
    if run is not None:
        _refuse_other_folder(run)
    manifest = load_manifest(
        manifest_path,
        root=config.root,
        reserved=RESERVED_COLUMNS.union(PREPARED.names),
        allow_outside_root=config.allow_outside_root,
    )
    tasks = _expand(select_split(manifest, config.partition, config.split), config)
    network = load_network(config.weights, normalisation=config.normalisation)
    synthesis = config.resolve_synthesis()
    sizes = compute_levels(synthesis, *config.texture_size, config.exemplar_size)
    make_batches(network, synthesis, sizes, config.exemplar_size)
    record = _make_record(manifest, tasks.schema, config, network)
    previous = load_run_record(run) if run is not None else None
    if previous is not None and not config.flag_rules:
        # Flags may have been computed anew since; rows made from here on get the same rules.
        flag_rules = previous.config.get("flag_rules") or {}
        record = replace(record, config={**record.config, "flag_rules": flag_rules})
    if previous is not None:
        refuse_other_run(previous, record)
    return CheckedRun(tasks, record, network)


def _expand(allowed: TableStream, config: RunConfig) -> TableStream:
    """Textures of the exemplars that a run takes, then their blends.

    Blends are drawn among all rows, which are in memory for them.
    """
    if config.blends:
        return stream_table(_expand_with_blends(allowed.read(), config))
    counts = Counts(config.crops, config.variations)

    def expand(columns: Columns) -> Iterator[pa.Table]:
        for tasks in expand_batches(allowed.first(config.limit), counts, seed=config.seed):
            yield tasks if columns is None else tasks.select(columns)

    (none,) = expand_batches([allowed.schema.empty_table()], counts, seed=config.seed)
    return TableStream(none.schema, expand)


def _expand_with_blends(allowed: pa.Table, config: RunConfig) -> pa.Table:
    exemplars = allowed.slice(0, config.limit)
    tasks = expand_tasks(
        exemplars, crops=config.crops, variations=config.variations, seed=config.seed
    )
    blends = expand_blends(
        exemplars,
        allowed,
        crops=config.crops,
        blends=config.blends,
        seed=config.seed,
        categories=config.blend_categories,
    )
    return pa.concat_tables([tasks, blends])


def _make_record(
    manifest: Manifest, tasks: pa.Schema, config: RunConfig, network: texsynth.TextureNetwork
) -> RunRecord:
    carried = pa.schema([field for field in tasks if field.name not in TASK_COLUMNS])
    row_schema(carried)
    return RunRecord(
        config=config.model_dump(mode="json"),
        identity=config.identity(network.weights_id, network.weights_sha256),
        versions={
            "texsynth": texsynth.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyarrow": pa.__version__,
        },
        weights=network.weights_id,
        weights_sha256=network.weights_sha256,
        manifest=str(manifest.path.absolute()),
        manifest_sha256=manifest.sha256,
        root=manifest.root,
        carried=carried,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def refuse_other_run(previous: RunRecord, record: RunRecord) -> None:
    """Refuse to go on with a run under settings or a manifest that do not fit its rows.

    Raises:
        FilteredRunError: The directory takes no new rows.
        RunMismatchError: Says what differs.
    """
    refuse_filtered(previous)
    refuse_other_config(previous, record)
    for name in SELECTION:
        before, now = previous.config.get(name), record.config.get(name)
        if before != now:
            raise RunMismatchError(
                f"{name} is {now!r}, the run was begun with {before!r}: rows of both side by side "
                "would be held-out data among training data, or say their split by two "
                "partitions; take the same value, or another directory (`texsynth filter` takes "
                "from a run what is safe for a partition)"
            )
    _refuse_other_partners(previous, record)
    for name in THRESHOLDS:
        before, now = previous.config.get(name), record.config.get(name)
        if before != now:
            raise RunMismatchError(
                f"{name} is {now!r}, the rows of this run were flagged with {before!r}; take the "
                "same value, or another directory"
            )
    if not previous.carried.equals(record.carried):
        raise RunMismatchError(
            f"the run carries the manifest columns {previous.carried.names}, this manifest has "
            f"{record.carried.names} (or other types); take the same columns, or another directory"
        )


def _refuse_other_partners(previous: RunRecord, record: RunRecord) -> None:
    """Refuse to draw the partners of blends anew, among others than before.

    Raises:
        RunMismatchError: Says what differs.
    """
    if not (previous.config.get("blends") and record.config.get("blends")):
        return
    before, now = (one.config.get("blend_categories") for one in (previous, record))
    if before != now:
        raise RunMismatchError(
            f"blend_categories is {now!r}, the blends of this run were drawn with {before!r}; take "
            "the same value, or another directory"
        )
    if previous.manifest_sha256 != record.manifest_sha256:
        raise RunMismatchError(
            f"manifest {record.manifest!r} is not what it was, and the blends of this run would "
            "get other partners; take the manifest as it was, or another directory"
        )
