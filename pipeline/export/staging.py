"""Files that are written aside and then put in place together, durable when they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.export.names import WORK
from pipeline.rundir import naming, sync

STAGED = "staged"


class Staging:
    """Files of one part of an export, under temporary names.

    Attributes:
        out: The folder of the export.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._finals: dict[Path, Path] = {}

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a temporary path to write a file to; an error of the system names the file's own.

        Args:
            name: The file's path below the export, with "/".
        """
        final = self.out / name
        temporary = self.out / WORK / STAGED / str(len(self._finals))
        with naming(final):
            yield temporary
        self._finals[temporary] = final

    def place(self) -> None:
        """Put all files in place: each is on the disk before it has its name."""
        # One after the other once all are written: the file system then has most of it done.
        for temporary, final in self._finals.items():
            with naming(final):
                sync(temporary)
        folders = {self.out}
        for temporary, final in self._finals.items():
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(final)
            between = len(final.relative_to(self.out).parts) - 1
            folders.update(list(final.parents)[:between])
        for folder in folders:
            sync(folder)


@contextmanager
def staged(out: Path) -> Iterator[Staging]:
    """Files that are written in the block; in place after it, and gone after an error."""
    folder = out / WORK / STAGED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        staging = Staging(out)
        yield staging
        staging.place()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
