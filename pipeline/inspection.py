"""What is wrong with the files of a run directory: unreadable, cut short, empty, or not a run's.

Nothing is opened for writing. Files that rows or attempts are read from are judged where they are
read; here are all others, and the folders. Hidden files (`.NAME`) are nobody's business.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

import pyarrow as pa
from safetensors import SafetensorError, safe_open

from pipeline.committed import FileProblem, UnreadableFileError, open_parquet
from pipeline.object_store import list_folder
from pipeline.rundir import (
    DAMAGED_SUFFIX,
    MARK_SUFFIXES,
    REPLACED_PREFIX,
    TEMPORARY_PREFIX,
    RunDirectory,
)
from pipeline.storage import AnyPath, ObjectPath, list_entries, local_copy

FOREIGN = "not a file of a run: nothing reads it"
UNFINISHED = "a write that its process did not end; a finalize removes it"
ASIDE = "damaged, put aside by a finalize; its tasks count as missing until they are done again"


def find_file_problems(run: RunDirectory, *, held: bool) -> list[FileProblem]:
    """The files and folders of a run directory that are not as they should be.

    Args:
        run: The run directory.
        held: Whether a process works on it: then files may be half written.
    """
    problems = [*_problems_of_root(run)]
    for folder in run.folders():
        problems += _problems_of_folder(run, folder)
    if held:
        problems = [p for p in problems if not p.path.name.startswith(TEMPORARY_PREFIX)]
    if run.success.exists() and not run.metrics.exists():
        problems.append(FileProblem(run.metrics, "missing; `texsynth finalize` makes it anew"))
    return problems


def _problems_of_root(run: RunDirectory) -> Iterator[FileProblem]:
    # A log in parts is of a run that was copied from an object store.
    folders = {*run.folders(), run.log_parts, run.report}
    for path in _list(run.path):
        if isinstance(path, FileProblem):
            yield path
        elif path.name.startswith(TEMPORARY_PREFIX):
            yield FileProblem(path, UNFINISHED)
        elif path.name.endswith(DAMAGED_SUFFIX):
            yield FileProblem(path, ASIDE)
        elif path in folders or path.name.startswith(REPLACED_PREFIX):
            if not path.is_dir():
                yield FileProblem(path, "no folder")
        elif not run.is_own(path):
            yield FileProblem(path, FOREIGN)
        else:
            yield from _problems_of_file(path)


def _problems_of_folder(run: RunDirectory, folder: AnyPath) -> Iterator[FileProblem]:
    if isinstance(folder, ObjectPath):
        yield from _problems_of_objects(run, folder)
        return
    if not folder.is_dir():
        return
    for path in _list(folder):
        if isinstance(path, FileProblem):
            yield path
        elif path.name.startswith(TEMPORARY_PREFIX):
            yield FileProblem(path, UNFINISHED)
        elif not run.is_own(path):
            yield FileProblem(path, FOREIGN)
        elif path.suffix not in MARK_SUFFIXES:
            yield from _problems_of_file(path, deep=folder == run.checkpoints)


def _problems_of_objects(run: RunDirectory, folder: ObjectPath) -> Iterator[FileProblem]:
    """Likewise, by a listing alone: there may be many objects, and each look is a request."""
    for found in list_folder(folder.uri):
        path = ObjectPath(found.uri)
        if path.name.startswith("."):
            continue
        if not run.is_own(path):
            yield FileProblem(path, FOREIGN)
        elif found.is_folder:
            yield FileProblem(path, "no regular file")
        elif not found.size and path.suffix not in MARK_SUFFIXES:
            yield FileProblem(path, "empty")


def _problems_of_file(path: AnyPath, *, deep: bool = True) -> Iterator[FileProblem]:
    """What is wrong with a file that belongs here; its content only if `deep`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            yield FileProblem(path, "no regular file")
        elif status.st_size == 0:
            yield FileProblem(path, "empty")
        elif deep and path.suffix == ".parquet":
            with open_parquet(path):
                pass
        elif deep and path.suffix == ".safetensors":
            with local_copy(path) as local, safe_open(local, "np"):
                pass
    except UnreadableFileError as error:
        yield error.problem
    except FileNotFoundError:
        if path.is_symlink():
            yield FileProblem(path, "a link to nothing")
    except (OSError, SafetensorError, pa.ArrowException) as error:
        yield FileProblem(path, f"cannot be read: {error}")


def _list(folder: AnyPath) -> Sequence[AnyPath | FileProblem]:
    """The entries of a folder, hidden ones left out; or why it cannot be listed."""
    try:
        return [path for path in list_entries(folder) if not path.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        return [FileProblem(folder, f"cannot be listed: {error}")]
