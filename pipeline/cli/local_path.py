"""Arguments that must be local paths."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pipeline.storage import ObjectPath, RemotePathError, as_path


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


LocalFile = Annotated[Path, local_only("this file is read from a disk")]
