"""The part of a run that is safe to train on in one partition, as a run directory of its own.

It is written beside its place, rows as shards that a finalize then compacts and proves, and renamed
at the end: it is there whole or not at all.
"""

from __future__ import annotations

import datetime
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import Scan, read_from_scan, read_rows
from pipeline.dealt import DealtManifest, load_dealt_manifest
from pipeline.finalize import GATHERED_ROWS, finalize
from pipeline.leaks import LeakReport, check_leaks
from pipeline.parents import Parent
from pipeline.resume import RunRecord, load_tasks, write_run_record, write_tasks
from pipeline.run import require_record
from pipeline.rundir import TEMPORARY_PREFIX, RunDirectory, sync
from pipeline.shards import commit_rows
from pipeline.splits import SPLITS
from pipeline.storage import as_path, require_local

MAX_NAMED = 5
"""Images that a refusal names."""


class FilterError(ValueError):
    """The safe part of a run cannot be told, is empty, or has no place to be written to."""


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """What became of the rows.

    Attributes:
        kept: number of rows in the new directory.
        left_out: number of the others, by reason.
    """

    kept: int
    left_out: dict[str, int]


def load_own_manifest(
    run: RunDirectory, *, root: str | None = None, partition: int | None = None
) -> DealtManifest:
    """The manifest that a run was made from, where its `run.json` says that it is.

    Args:
        run: the run.
        root: of the images, if they are elsewhere by now.
        partition: 1 to 10; None for the column `split`.

    Raises:
        NotARunError, RunRecordError: it is no run directory, or a damaged one.
        FilterError: the manifest is not there any more.
        ManifestError: it cannot be used.
    """
    record = require_record(run)
    if not as_path(record.manifest).is_file():
        raise FilterError(
            f"manifest '{record.manifest}', which the run was made from, is not there any more; "
            "expected it, or another one as --against"
        )
    return load_dealt_manifest(
        record.manifest,
        root=root or record.root,
        partition=partition,
        allow_outside_root=record.config.get("allow_outside_root") is True,
    )


def filter_run(
    run: RunDirectory,
    out: Path,
    against: DealtManifest,
    *,
    split: str = "train",
    accepted_only: bool = False,
) -> Filtered:
    """Write the textures of allowed parents that are in no other split, and no picture of them is.

    The rows get the `split` of their parents in this partition. Rows without a texture, and those
    whose parents cannot be found or compared, are left out.

    Args:
        run: finished or not; it is not changed.
        out: the new run directory; nothing may be there.
        against: the manifest and its splits; a row's parent is looked up by its id.
        split: one of SPLITS, that of the parents that are allowed.
        accepted_only: leave out rows with a fault.

    Raises:
        FilterError: something is at `out`, a held-out image cannot be compared, or no row is left.
        NotARunError, RunRecordError, SplitError: as `check_leaks`.
        OSError: the disk is full, or the like; nothing is left at `out`.
    """
    if out.exists() or out.is_symlink():
        raise FilterError(f"out '{out}' is there already, expected a path where nothing is")
    record, tasks = require_record(run), load_tasks(run)
    report = check_leaks(run, against, set(SPLITS) - {split})
    if report.unread_rows:
        lines = "\n".join(f"  {line}" for line in report.unread_rows[:MAX_NAMED])
        raise FilterError(
            f"{len(report.unread_rows)} held-out images of '{against.manifest.path}' cannot be "
            f"compared, so that nothing is known to be safe; mend the manifest or its images:\n"
            f"{lines}"
        )
    verdicts = _judge_parents(report, against, split)
    reasons = _find_reasons(report, verdicts, accepted_only=accepted_only)
    kept = report.textures.rows["task_id"].filter(pa.array([not why for why in reasons]))
    left_out = Counter(why for why in reasons if why)
    left_out["without a texture"] = report.textures.without_texture
    counts = {why: count for why, count in left_out.most_common() if count}
    if not len(kept):
        said = ", ".join(f"{count} {why}" for why, count in counts.items()) or "the run is empty"
        raise FilterError(f"no row of '{run.path}' is left: {said}")
    filtered = {
        "run": str(run.path.absolute()),
        "fingerprint": record.fingerprint,
        "against": str(against.manifest.path.absolute()),
        "against_sha256": against.manifest.sha256,
        "partition": against.partition,
        "split": split,
        "accepted_only": accepted_only,
        "rows": len(kept),
        "left_out": counts,
        "filtered_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    config = {**record.config, "partition": against.partition, "split": split}
    _write(run, out, replace(record, config=config, filtered=filtered), (tasks, kept))
    return Filtered(kept=len(kept), left_out=counts)


def _judge_parents(report: LeakReport, against: DealtManifest, split: str) -> dict[Parent, str]:
    """Of every parent why its rows are left out; empty if they are not."""
    leaks = {leak.parent: leak.why for leak in report.leaks}

    def judge(parent: Parent) -> str:
        row = against.row_of_id.get(parent.exemplar_id)
        if row is None:
            return "of a parent that the manifest does not have"
        if row.split != split:
            return f"of a parent that is not in {split}"
        if parent in leaks:
            return f"of a parent with a {leaks[parent]} in another split"
        return "of a parent that cannot be compared" if parent in report.unread_parents else ""

    return {parent: judge(parent) for parent in report.textures.count_rows()}


def _find_reasons(
    report: LeakReport, verdicts: Mapping[Parent, str], *, accepted_only: bool
) -> list[str]:
    """Of every texture why it is left out; empty if it is not."""
    textures = report.textures
    reasons = [
        next((verdicts[parent] for parent in parents if verdicts[parent]), "")
        for parents in textures.parents
    ]
    if not accepted_only:
        return reasons
    accepted = textures.rows["accepted"].to_pylist()
    return [
        reason or ("" if is_accepted else "not accepted")
        for reason, is_accepted in zip(reasons, accepted, strict=True)
    ]


def _write(
    run: RunDirectory, out: Path, record: RunRecord, chosen: tuple[pa.Table, pa.ChunkedArray]
) -> None:
    """Write the chosen rows of a run to `out`; `chosen` has all tasks and the ids of the rows."""
    tasks, kept = chosen
    out = require_local(as_path(out), "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    folder = out.with_name(f"{TEMPORARY_PREFIX}{out.name}.{unique}")
    building = RunDirectory(folder)
    try:
        building.create()
        write_run_record(building, record)
        of_rows = tasks.filter(pc.is_in(tasks["task_id"], kept))
        write_tasks(building, _with_split(of_rows, record.config["split"]))
        read_from_scan(run, lambda scan: _copy_rows(scan, kept, building, record.config["split"]))
        finalized = finalize(building, kept)
        if finalized.missing:
            missing = len(finalized.missing)
            raise FilterError(
                f"{missing} rows of '{run.path}' could not be read; `texsynth verify` says which "
                "files are damaged, and how to mend them"
            )
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync(out.parent)


def _copy_rows(scan: Scan, kept: pa.ChunkedArray, building: RunDirectory, split: str) -> None:
    rows = scan.winners.filter(pc.is_in(scan.winners["task_id"], kept))
    for start in range(0, len(rows), GATHERED_ROWS):
        table = read_rows(scan, rows.slice(start, GATHERED_ROWS), scan.schema.names)
        commit_rows(building, _with_split(table, split))


def _with_split(table: pa.Table, split: str) -> pa.Table:
    place = table.schema.get_field_index("split")
    values = pa.array([split] * len(table), pa.string())
    return table.set_column(place, table.schema.field(place), values)
