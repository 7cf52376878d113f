"""`texsynth report RUN`: a page to look at what a run has made."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from pipeline.report import DEFAULT_LIMIT, write_report
from pipeline.rundir import RunDirectory


def report(
    run: Path,
    /,
    *,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = DEFAULT_LIMIT,
) -> None:
    """Write a contact sheet of a run, worst textures first, and say where it is.

    Args:
        run: Run directory, finished or not.
        limit: How many textures are shown at most, and how many failed rows.
    """
    print(write_report(RunDirectory(run), limit=limit))
