"""One export in place of another, which stays whole until the new one is.

The new one is written below the old one's working folder, as an export of its own (`next`). Then
what the old one has is moved aside and the new one's entries are moved in, by renaming: its
`manifest.csv` last, so that a folder with a manifest is whole, the old export or the new one. What
is broken off in between goes on where it was. In an object store, which has no renaming, the old
one's objects are removed and the new one's are moved one by one: the old one is whole until then.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.export.manifest import MANIFEST
from pipeline.export.names import WORK
from pipeline.object_tree import move_tree, remove_tree
from pipeline.rundir import sync
from pipeline.storage import AnyPath, ObjectPath

RECORD = "export.json"
NEXT = "next"
ASIDE = "replaced"


def next_export(out: AnyPath) -> AnyPath:
    """Where the export is written that will replace the one in `out`."""
    return out / WORK / NEXT


def is_finished(out: AnyPath) -> bool:
    """Whether a folder has a whole export."""
    return (out / MANIFEST).exists()


def replace_export(out: AnyPath, old: Iterable[str], new: Iterable[str]) -> None:
    """Put the export that is whole in `next_export(out)` in place; call again if it was broken off.

    Args:
        out: The folder of both.
        old: Names in it that the old export has.
        new: Names that the new one has.
    """
    (out / MANIFEST).unlink(missing_ok=True)
    if isinstance(out, ObjectPath):
        _replace_objects(out, set(old), set(new))
    else:
        _replace_files(out, set(old), set(new))


def _replace_objects(out: ObjectPath, old: set[str], new: set[str]) -> None:
    source = out / WORK / NEXT
    # Where it is there, nothing of the old one is left, and what has these names is the new one's.
    removed = source / ASIDE
    if not removed.exists():
        for name in sorted(old):
            remove_tree(out / name)
        removed.touch()
    for name in [*sorted(new), RECORD, MANIFEST]:
        move_tree(source / name, out / name)


def _replace_files(out: Path, old: set[str], new: set[str]) -> None:
    source, aside = out / WORK / NEXT, out / WORK / ASIDE
    aside.mkdir(exist_ok=True)
    sync(out)
    for name in sorted(old - new):
        _put_aside(out / name, aside)
    for name in [*sorted(new), RECORD, MANIFEST]:
        # Where it is not there, it has been moved already.
        if (source / name).exists():
            if name in new:
                _put_aside(out / name, aside)
            (source / name).replace(out / name)
            sync(out)


def _put_aside(path: Path, folder: Path) -> None:
    if path.exists() or path.is_symlink():
        remove(folder / path.name)
        path.replace(folder / path.name)


def remove(path: AnyPath) -> None:
    """Remove a file or a folder; nothing if there is none."""
    if isinstance(path, ObjectPath):
        remove_tree(path)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
