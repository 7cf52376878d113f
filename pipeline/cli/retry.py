"""`texsynth retry RUN`: do failed tasks again, by what the run directory says alone."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from pipeline.cli.run import print_outcome
from pipeline.config import parse_retry
from pipeline.run import retry_run
from pipeline.rundir import RunDirectory


def retry(
    run: Path,
    /,
    *,
    retry: Annotated[list[str], Parameter(negative=())] = ["failed,timeout,quarantined"],  # noqa: B006
) -> int:
    """Do the tasks of some rows again, and those that have none yet, with the settings of the run.

    The row with the most attempts counts. For other settings, such as a longer --task-timeout, give
    run the same --retry. Exit codes as of run.

    Args:
        run: Run directory; its manifest is not needed, the images are.
        retry: Whose: failed, timeout, quarantined, or flagged (a copy, or above the loss
            threshold; under another seed).
    """
    console = Console()
    return print_outcome(retry_run(RunDirectory(run), parse_retry(retry), console), console)
