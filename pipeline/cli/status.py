"""`texsynth status RUN`: the state of a run, from its files alone."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.rundir import RunDirectory
from pipeline.status import RunStatus, StatusReader
from pipeline.status_text import status_lines

WATCH_SECONDS = 2.0


def status(
    run: Path,
    /,
    *,
    json: Annotated[bool, Parameter(negative="")] = False,
    watch: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Say how far a run is, what works on it, what went wrong, and what to do next.

    Reads files only, during the run or after it, on any machine that sees them.

    Args:
        run: Run directory, whole or damaged.
        json: Print one JSON object; with --watch, one per line.
        watch: Look again every two seconds, until no process works on the run.
    """
    statuses = (
        _watch(RunDirectory(run)) if watch else iter([StatusReader(RunDirectory(run)).load()])
    )
    with contextlib.suppress(KeyboardInterrupt):
        if json:
            for found in statuses:
                print(found.to_json(), flush=True)
        elif watch:
            with Live(console=Console(), auto_refresh=False) as live:
                for found in statuses:
                    live.update(_view(found), refresh=True)
        else:
            print("\n".join(status_lines(next(statuses))))
    return 0


def _watch(run: RunDirectory) -> Iterator[RunStatus]:
    reader = StatusReader(run)
    while True:
        found = reader.load()
        yield found
        if not found.working:
            return
        time.sleep(WATCH_SECONDS)


def _view(found: RunStatus) -> Text:
    return Text("\n".join(status_lines(found)), no_wrap=True, overflow="ellipsis")
