"""`texsynth report RUN`: a page to look at what a run has made."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from pipeline.cli.places import output_place
from pipeline.report import DEFAULT_LIMIT, write_report
from pipeline.rundir import RunDirectory


def report(
    run: Path,
    /,
    *,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = DEFAULT_LIMIT,
    out: Path | None = None,
) -> None:
    """Write a page to look at a run, worst textures first, and say where it is.

    Args:
        run: Run directory, finished or not.
        limit: How many textures are written at full size at most, the worst of them; all others
            are thumbnails. The default makes a folder of about 200 MB at most with textures of
            256 px.
        out: Folder of the page, or its URI; default: `report` in the run directory.
    """
    place = None if out is None else output_place(out)
    print(write_report(RunDirectory(run), limit=limit, out=place))
