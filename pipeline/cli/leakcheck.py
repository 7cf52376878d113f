"""`texsynth leakcheck RUN --against MANIFEST`: whether held-out images are in a run."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators
from rich.console import Console

from pipeline.cli import EXIT_FAILED_ROWS
from pipeline.dealt import load_dealt_manifest
from pipeline.leaks import Leak, LeakReport, check_leaks
from pipeline.rundir import RunDirectory
from pipeline.splits import HELD_OUT, split_column
from pipeline.terminal import visible
from pipeline.verify.checks import counted


def leakcheck(
    run: Path,
    /,
    *,
    against: Path,
    root: str | None = None,
    partition: Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=10))] = None,
    allow_outside_root: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Look for the images that a run was made from in val and test of a manifest.

    By their ids, as the same files (SHA-256), and as the same pictures in another size or quality,
    a little cropped, turned or mirrored. Exit codes: 0 none is there, 2 refused, 3 some are, or
    images could not be compared, which is said.

    Args:
        run: Run directory, finished or not; rows without a texture do not count.
        against: Manifest, CSV or Parquet, with every image that is held out.
        root: Folder or URI that its paths are relative to; default: its folder.
        partition: Of DTD: its column split_N says what is held out; default: its column split.
        allow_outside_root: Let its paths leave the root.
        as_json: Print one JSON object instead of lines.
    """
    dealt = load_dealt_manifest(
        against, root=root, partition=partition, allow_outside_root=allow_outside_root
    )
    with Console(stderr=True).status("reading images"):
        report = check_leaks(RunDirectory(run), dealt)
    if as_json:
        print(json.dumps(_values(report), indent=2))
    else:
        print("\n".join(visible(line) for line in _describe(report, partition)))
    return 0 if report.ok else EXIT_FAILED_ROWS


def _describe(report: LeakReport, partition: int | None) -> Iterator[str]:
    textures = report.textures
    yield (
        f"{counted(textures.rows.num_rows, 'texture')} of "
        f"{counted(len(textures.count_rows()), 'exemplar')}, against "
        f"{counted(report.held_out, 'row')} of {' and '.join(HELD_OUT)} by column "
        f"{split_column(partition)!r}"
    )
    for leak in sorted(report.leaks, key=lambda leak: -leak.rows):
        yield f"leak: {_describe_leak(leak)}"
    yield from (f"not checked: {line}" for line in _unread_lines(report))
    counts = Counter(leak.why for leak in report.leaks)
    if report.leaks:
        parts = ", ".join(f"{count} {why}" for why, count in counts.items())
        rows = counted(report.leaking_rows, "row")
        yield f"{rows} leak, of {counted(len(report.leaks), 'exemplar')}: {parts}"
    elif report.ok:
        yield "no leak: no parent, no duplicate and no near duplicate of one is held out"
    else:
        yield "no leak found, but not everything could be looked at"


def _describe_leak(leak: Leak) -> str:
    row = leak.found
    near = "" if leak.distance is None else f" ({leak.distance} bits differ)"
    whose = {
        "parent": "it is",
        "duplicate": "the same file as",
        "near duplicate": "the same picture as",
    }[leak.why]
    return (
        f"{counted(leak.rows, 'row')} of {leak.parent.exemplar_id!r}: {whose} {row.split} row "
        f"{row.number}, {row.exemplar_id!r}, {row.path!r}{near}"
    )


def _unread_lines(report: LeakReport) -> Iterator[str]:
    yield from report.unread_files
    yield from report.unread_rows
    for parent, reason in report.unread_parents.items():
        yield f"parent {parent.exemplar_id!r}: {reason}"


def _values(report: LeakReport) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "textures": report.textures.rows.num_rows,
        "exemplars": len(report.textures.count_rows()),
        "held_out": report.held_out,
        "leaks": [dataclasses.asdict(leak) for leak in report.leaks],
        "not_checked": list(_unread_lines(report)),
    }
