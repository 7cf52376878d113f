"""Arguments that name places: those that must be local paths, and those that are written to."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pipeline.storage import AnyPath, ObjectPath, RemotePathError, as_path


def local_only(reason: str) -> Parameter:
    """What an argument is annotated with that takes no URI; the refusal says the reason."""
    return Parameter(validator=_refuse_uri(reason))


def _refuse_uri(reason: str) -> Callable[[Any, Any], None]:
    def validate(_: Any, value: Path | tuple[Path, ...] | None) -> None:
        given = value if isinstance(value, tuple) else (value,)
        for path in given:
            place = None if path is None else as_path(path)
            if isinstance(place, ObjectPath):
                raise RemotePathError(f"{place.uri!r} is a URI, expected a local path: {reason}")

    return validate


def output_place(given: Path) -> AnyPath:
    """The file, folder or URI that an argument names, once it is known that it can be written to.

    Raises:
        StorageError: Nothing is written to stores of this kind.
    """
    place = as_path(given)
    if isinstance(place, ObjectPath):
        place.require_writable()
    return place


LocalFile = Annotated[Path, local_only("this file is read from a disk")]
