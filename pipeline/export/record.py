"""`export.json`: what an export is of, so that it can go on, and nothing else is overwritten.

A folder is *new* if it is missing or empty, *unfinished* from then on until its `manifest.csv` is
written, and *finished* with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.export.manifest import MANIFEST
from pipeline.export.names import WORK
from pipeline.export.staging import staged
from pipeline.rundir import sync

RECORD = "export.json"
LOCK = "lock"
LOCK_SECONDS = 0.5
MAX_NAMED = 5

Record = Mapping[str, Any]


class ExportError(ValueError):
    """An export is refused; nothing was changed."""


@contextmanager
def hold_export(out: Path, record: Record, *, overwrite: bool) -> Iterator[bool]:
    """Be the only process that writes an export, while the context lasts.

    Args:
        out: Its folder.
        record: What it is of; JSON values only. `entries` are the names that it makes in `out`.
        overwrite: Remove another export, or a finished one of the same, first.

    Yields:
        Whether there is anything to do. If so, `export.json` is there, and so is the folder WORK.

    Raises:
        ExportError: Something is in the way, or another process is at work.
    """
    _refuse(out, record, overwrite=overwrite)
    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / LOCK, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise ExportError(f"'{out}': another process writes this export") from error
    try:
        _refuse(out, record, overwrite=overwrite)
        if overwrite and (_is_finished(out) or not _is_of(out, record)):
            _remove(out)
        if not _is_finished(out):
            if not _is_of(out, record):
                _write_record(out, record)
            yield True
        else:
            yield False
        if _is_finished(out):
            shutil.rmtree(work)
    finally:
        lock.release()


def _refuse(out: Path, record: Record, *, overwrite: bool) -> None:
    """Raise unless the folder is new, of the same export, or of one that may be removed."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"'{out}' is not a folder")
    there = sorted(path.name for path in out.iterdir() if path.name != WORK)
    if not there:
        return
    found = load_record(out)
    if found is None:
        raise ExportError(
            f"'{out}' holds {', '.join(there[:MAX_NAMED])}, {len(there)} in all, and no export of"
            " ours: expected a folder that is empty or not there"
        )
    if found != record and not overwrite:
        raise ExportError(
            f"'{out}' holds another export; --overwrite removes it:\n{_differences(found, record)}"
        )


def _write_record(out: Path, record: Record) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    with staged(out) as staging, staging.writing(RECORD) as path:
        path.write_text(f"{text}\n", encoding="utf-8")


def load_record(out: Path) -> dict[str, Any] | None:
    """The content of `export.json`; None where there is none of ours."""
    try:
        values = json.loads((out / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    entries = values.get("entries") if isinstance(values, dict) else None
    if not isinstance(entries, list) or not all(map(_is_name, entries)):
        return None
    return dict(values) if "layout_version" in values else None


def _is_name(entry: object) -> bool:
    """Whether something is the name of a file in a folder, and does not lead out of it."""
    return isinstance(entry, str) and entry not in ("", ".", "..") and Path(entry).name == entry


def _is_of(out: Path, record: Record) -> bool:
    return load_record(out) == record


def _is_finished(out: Path) -> bool:
    return (out / MANIFEST).exists()


def _remove(out: Path) -> None:
    """Remove an export. Broken off, it is an unfinished export still."""
    found = load_record(out)
    (out / MANIFEST).unlink(missing_ok=True)
    sync(out)
    inside = [path for path in (out / WORK).iterdir() if path.name != LOCK]
    for path in [*inside, *(out / name for name in (found or {}).get("entries", ()))]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (out / RECORD).unlink(missing_ok=True)


def _differences(found: Record, record: Record) -> str:
    """One line for each value that differs, `entries` aside."""
    names = [name for name in {**found, **record} if found.get(name) != record.get(name)]
    lines = [
        f"  {name}: {json.dumps(found.get(name))} -> {json.dumps(record.get(name))}"
        for name in names
        if name not in ("entries", "classes")
    ]
    return "\n".join(lines) or "  its categories differ"
