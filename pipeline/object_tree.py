"""All objects below a folder of a store, at any depth: listed, put, moved and removed.

Many are worked on at once. Nothing here is whole or not there: who needs that puts last what marks
the others as whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.object_path import ObjectPath
from pipeline.object_store import call_store, list_folder
from pipeline.side_by_side import do_side_by_side, remove_side_by_side
from pipeline.storage import AnyPath, download

COPYING = ("s3", "gs")
"""Schemes of stores that copy an object by themselves, and have done so when they answer."""


def list_tree(folder: ObjectPath) -> Iterator[ObjectPath]:
    """The objects below a folder, in the order of their names, a request for each of its folders.

    Raises:
        StorageError: The store does not answer; so do all functions here.
    """
    for found in list_folder(folder.uri):
        if found.is_folder:
            yield from list_tree(ObjectPath(found.uri))
        else:
            yield ObjectPath(found.uri)


def list_names(folder: AnyPath) -> set[str]:
    """What lies below a folder, local or not: paths relative to it, with "/"."""
    if isinstance(folder, ObjectPath):
        return {path.uri[len(folder.uri) + 1 :] for path in list_tree(folder)}
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def put_files(files: Mapping[ObjectPath, Path]) -> None:
    """Put local files, by the object that each becomes."""
    _do_all(lambda target: target.upload(files[target]), list(files))


def upload_tree(folder: Path, target: ObjectPath, *, last: str) -> None:
    """Put the files below a local folder, under the same names.

    Args:
        folder: Where they are.
        target: What stands for it in the store.
        last: Name of the file that is put when all others are there.
    """
    put_files({target / name: folder / name for name in list_names(folder) - {last}})
    (target / last).upload(folder / last)


def move_tree(source: ObjectPath, target: ObjectPath) -> None:
    """Give an object, or all below a folder, another name; again, where it was broken off."""
    beginning = len(source.uri)
    found = [source] if source.is_file() else list(list_tree(source))
    _do_all(lambda path: _move(path, ObjectPath(f"{target}{path.uri[beginning:]}")), found)


def remove_tree(folder: ObjectPath) -> None:
    """Remove an object and all below it; nothing if there is none."""
    found = [*([folder] if folder.is_file() else []), *list_tree(folder)]
    remove_side_by_side(found)


def _move(source: ObjectPath, target: ObjectPath) -> None:
    if source.scheme in COPYING:
        call_store(
            source.uri,
            lambda files, path: files.cp_file(path, files._strip_protocol(target.uri)),
            what="copy",
        )
    else:
        with tempfile.TemporaryDirectory(prefix="texsynth-") as folder:
            copy = Path(folder) / source.name
            download(source, copy)
            target.upload(copy)
    source.unlink(missing_ok=True)


def _do_all(act: Callable[[ObjectPath], None], paths: Sequence[ObjectPath]) -> None:
    for _ in do_side_by_side(act, paths):
        pass
