"""Files that are written aside and then put in place together, durable when they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.export.names import WORK
from pipeline.object_tree import put_files
from pipeline.rundir import naming, sync
from pipeline.storage import AnyPath, ObjectPath

STAGED = "staged"


class Staging:
    """Files of one part of an export, under temporary names.

    Attributes:
        out: The folder of the export.
        folder: Where they are written, on a disk.
    """

    def __init__(self, out: AnyPath, folder: Path) -> None:
        self.out, self.folder = out, folder
        self._temporaries: dict[str, Path] = {}

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a temporary path to write a file to; an error of the system names the file's own.

        Args:
            name: The file's path below the export, with "/".
        """
        final = self.out / name
        # The suffix tells a store what the object is.
        temporary = self.folder / f"{len(self._temporaries)}{final.suffix}"
        with naming(final):
            yield temporary
        self._temporaries[name] = temporary

    def place(self) -> None:
        """Put all files in place: each is on the disk before it has its name."""
        if isinstance(self.out, ObjectPath):
            put_files({self.out / name: path for name, path in self._temporaries.items()})
        else:
            _rename(self._temporaries, self.out)


def _rename(temporaries: Mapping[str, Path], out: Path) -> None:
    """Rename files to these names, on the disk with the folders that they go to, up to `out`."""
    # One after the other once all are written: the file system then has most of it done.
    for name, temporary in temporaries.items():
        with naming(out / name):
            sync(temporary)
    folders = {out}
    for name, temporary in temporaries.items():
        final = out / name
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(final)
        between = len(final.relative_to(out).parts) - 1
        folders.update(list(final.parents)[:between])
    for folder in folders:
        sync(folder)


@contextmanager
def staged(out: AnyPath) -> Iterator[Staging]:
    """Files that are written in the block; in place after it, and gone after an error."""
    with _temporary_folder(out) as folder:
        staging = Staging(out, folder)
        yield staging
        staging.place()


@contextmanager
def _temporary_folder(out: AnyPath) -> Iterator[Path]:
    """A new folder: on the same disk, or on any for an object store; gone at the end."""
    if isinstance(out, ObjectPath):
        with tempfile.TemporaryDirectory(prefix="texsynth-") as name:
            yield Path(name)
        return
    folder = out / WORK / STAGED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
