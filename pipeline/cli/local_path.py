"""Arguments that must be local paths: what is written there, or looked for, is on a disk."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pipeline.storage import as_path, require_local


def _refuse_uri(_: Any, value: Path | None) -> None:
    if value is not None:
        require_local(as_path(value), "it")


LocalPath = Annotated[Path, Parameter(validator=_refuse_uri)]
