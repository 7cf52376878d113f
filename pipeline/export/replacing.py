"""One export in place of another, which stays whole until the new one is.

The new one is written below the old one's working folder, as an export of its own (`next`). Then
what the old one has is moved aside and the new one's entries are moved in, by renaming: its
`manifest.csv` last, so that a folder with a manifest is whole, the old export or the new one. What
is broken off in between goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.export.manifest import MANIFEST
from pipeline.export.names import WORK
from pipeline.rundir import sync

RECORD = "export.json"
NEXT = "next"
ASIDE = "replaced"


def next_export(out: Path) -> Path:
    """Where the export is written that will replace the one in `out`."""
    return out / WORK / NEXT


def is_finished(out: Path) -> bool:
    """Whether a folder has a whole export."""
    return (out / MANIFEST).exists()


def replace_export(out: Path, old: Iterable[str], new: Iterable[str]) -> None:
    """Put the export that is whole in `next_export(out)` in place; call again if it was broken off.

    Args:
        out: The folder of both.
        old: Names in it that the old export has.
        new: Names that the new one has.
    """
    source, aside = next_export(out), out / WORK / ASIDE
    aside.mkdir(exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    sync(out)
    new = set(new)
    for name in sorted({*old} - new):
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


def remove(path: Path) -> None:
    """Remove a file or a folder; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
