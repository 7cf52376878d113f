"""`texsynth failures RUN`: what went wrong, and where."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.cli import EXIT_FAILED_ROWS
from pipeline.failures import FAILURE_STATUSES, failures_json, load_failures
from pipeline.failures_text import failure_text, failures_lines
from pipeline.rundir import RunDirectory, require_run
from pipeline.terminal import visible


def failures(
    run: Path,
    /,
    *,
    status: str = ",".join(FAILURE_STATUSES),
    task: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """List the rows of a run without a good texture, and what does them again.

    Exit codes: 0 there are none, 3 there are some.

    Args:
        run: Run directory, finished or not.
        status: Which rows: some of failed, timeout, quarantined, with commas.
        task: Only this task, with its whole error.
        json: Print the rows as JSON, one object per line, with their whole errors.
    """
    directory = RunDirectory(run)
    require_run(directory)
    statuses = [name.strip() for name in status.split(",") if name.strip()]
    found = load_failures(directory, statuses, task=task)
    for problem in found.problems:
        sys.stderr.write(visible(f"unreadable: {problem.path}: {problem.reason}") + "\n")
    if json:
        print(failures_json(found.rows), end="")
    elif task is not None:
        print(failure_text(found.rows[0]))
    else:
        print("\n".join(failures_lines(directory, found)))
    return EXIT_FAILED_ROWS if found.rows else 0
