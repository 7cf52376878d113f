"""`export.json`: what an export is of, so that it can go on, and nothing else is overwritten.

A folder is *new* if it is missing or empty, *unfinished* from then on until its `manifest.csv` is
written, and *finished* with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.export.manifest import MANIFEST
from pipeline.export.names import WORK
from pipeline.export.replacing import RECORD, is_finished, next_export, remove, replace_export
from pipeline.export.staging import staged
from pipeline.folder_lock import FolderBusyError, hold_folder
from pipeline.locks import is_lock
from pipeline.storage import AnyPath, ObjectPath

LOCK = "lock"
MAX_NAMED = 5

Record = Mapping[str, Any]


class ExportError(ValueError):
    """An export is refused; nothing was changed."""


@contextmanager
def hold_export(out: AnyPath, record: Record, *, overwrite: bool) -> Iterator[AnyPath | None]:
    """Be the only process that writes an export, while the context lasts.

    Args:
        out: Its folder.
        record: What it is of; JSON values only. `entries` are the names that it makes in `out`.
        overwrite: Replace another export, or a finished one of the same. It is there until the
            context ends, and for good where that ends with an error.

    Yields:
        The folder to write to, in which `export.json` is there, and so is the folder WORK; None if
        there is nothing to do.

    Raises:
        ExportError: Something is in the way, or another process is at work.
    """
    _refuse(out, record, overwrite=overwrite)
    with _locked(out):
        _refuse(out, record, overwrite=overwrite)
        if _is_replaced(out, record, overwrite=overwrite):
            target = next_export(out)
            if not (_is_of(target, record) or _is_taking_place(out, record)):
                remove(target)
            yield from _begin(target, record)
            if is_finished(target):
                old = load_record(out) or {}
                replace_export(out, old.get("entries", ()), record["entries"])
        else:
            yield from _begin(out, record)
        if is_finished(out):
            _clear(out / WORK)


def _begin(target: AnyPath, record: Record) -> Iterator[AnyPath | None]:
    """Yield the folder once it says what the export is of; None if that is finished."""
    if is_finished(target):
        yield None
        return
    (target / WORK).mkdir(parents=True, exist_ok=True)
    if not _is_of(target, record):
        _write_record(target, record)
    yield target


@contextmanager
def _locked(out: AnyPath) -> Iterator[None]:
    try:
        with hold_folder(out / WORK, LOCK):
            yield
    except FolderBusyError as error:
        raise ExportError(f"'{out}': another process writes this export") from error


def _clear(work: AnyPath) -> None:
    """Remove the working folder, the lock last: who waits for it finds a finished export."""
    for path in work.iterdir():
        if path.name != LOCK and not is_lock(path.name):
            remove(path)
    if isinstance(work, ObjectPath):
        return
    (work / LOCK).unlink()
    # Who has waited may have made it anew by now, and removes it in turn.
    with suppress(OSError):
        work.rmdir()


def _is_replaced(out: AnyPath, record: Record, *, overwrite: bool) -> bool:
    """Whether the export is written beside another one, whose place it then takes."""
    if _is_taking_place(out, record):
        return True
    there = load_record(out) is not None
    return there and (not _is_of(out, record) or (overwrite and is_finished(out)))


def _is_taking_place(out: AnyPath, record: Record) -> bool:
    """Whether an export of this has begun to take the place of another, and was broken off."""
    source = next_export(out)
    if is_finished(out) or not is_finished(source):
        return False
    return _is_of(source, record) or (not (source / RECORD).exists() and _is_of(out, record))


def _refuse(out: AnyPath, record: Record, *, overwrite: bool) -> None:
    """Raise unless the folder is new, of the same export, or of one that may be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"'{out}' is not a folder")
    there = sorted(path.name for path in out.iterdir() if path.name != WORK)
    if not there or _is_taking_place(out, record):
        return
    found = load_record(out)
    if found is None:
        raise ExportError(
            f"'{out}' holds {_named(there)}, and no export of ours: expected a folder that is empty"
            " or not there"
        )
    if found == record:
        return
    if not overwrite:
        raise ExportError(
            f"'{out}' holds another export; --overwrite replaces it:\n{_differences(found, record)}"
        )
    foreign = set(there) - {*found["entries"], RECORD, MANIFEST}
    if in_the_way := sorted(foreign & {*record["entries"]}):
        raise ExportError(
            f"'{out}' holds {_named(in_the_way)} beside its export, where the new one has the same"
            " names: move it away"
        )


def _named(names: list[str]) -> str:
    return f"{', '.join(names[:MAX_NAMED])}, {len(names)} in all"


def _write_record(out: AnyPath, record: Record) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    with staged(out) as staging, staging.writing(RECORD) as path:
        path.write_text(f"{text}\n", encoding="utf-8")


def load_record(out: AnyPath) -> dict[str, Any] | None:
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


def _is_of(out: AnyPath, record: Record) -> bool:
    return load_record(out) == record


def _differences(found: Record, record: Record) -> str:
    """One line for each value that differs, `entries` aside."""
    names = [name for name in {**found, **record} if found.get(name) != record.get(name)]
    lines = [
        f"  {name}: {_shown(found.get(name))} -> {_shown(record.get(name))}"
        for name in names
        if name not in ("entries", "classes")
    ]
    return "\n".join(lines) or "  its categories differ"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
