"""The part of a run that is safe to train on in one partition, as a run directory of its own."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.dealt import DealtManifest, load_dealt_manifest
from pipeline.leaks import LeakReport, check_leaks
from pipeline.parents import Parent
from pipeline.resume import load_tasks
from pipeline.run import require_record
from pipeline.run_part import FilterError, refuse_taken, write_part
from pipeline.rundir import RunDirectory
from pipeline.splits import SPLITS
from pipeline.storage import AnyPath, as_path, lies_in

__all__ = ["FilterError", "Filtered", "filter_run", "load_own_manifest"]

MAX_NAMED = 5
"""Images that a refusal names."""


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
    out: AnyPath,
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
        out: the new run directory, a folder or a URI; nothing may be there.
        against: the manifest and its splits; a row's parent is looked up by its id.
        split: one of SPLITS, that of the parents that are allowed.
        accepted_only: leave out rows with a fault.

    Raises:
        FilterError: something is at `out`, a held-out image cannot be compared, or no row is left.
        NotARunError, RunRecordError, SplitError: as `check_leaks`.
        OSError: the disk is full, or the like; nothing is left at `out`.
    """
    out = as_path(out)
    refuse_taken(out)
    if lies_in(out, run.path):
        raise FilterError(f"out '{out}' lies in the run '{run.path}': expected a place outside")
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
    write_part(run, out, replace(record, config=config, filtered=filtered), tasks, kept)
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
