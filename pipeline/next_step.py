"""What to do next with a run: one command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Literal

from pipeline.rundir import RunDirectory

RunState = Literal["running", "stopping", "finished", "stopped", "crashed", "incomplete"]


def choose_next_step(
    run: RunDirectory,
    state: RunState,
    manifest: str | None,
    missing: int | None,
    statuses: Mapping[str, int],
) -> str:
    """The command that goes on with a run, on one line, with a remark where it needs one.

    Args:
        run: The run directory.
        state: Of the run.
        manifest: Its path; None if `run.json` cannot be read.
        missing: Tasks without a row; None if `tasks.parquet` cannot be read.
        statuses: Number of tasks by status of their rows.
    """
    if state in ("running", "stopping"):
        return shlex.join(["texsynth", "status", str(run.path), "--watch"])
    if manifest is None:
        return "put back run.json from a copy: without it no command goes on with this run"
    if missing is None or missing:
        command = shlex.join(["texsynth", "run", manifest, "--out", str(run.path)])
        return f"{command}  (with the options that it was begun with)"
    if state != "finished":
        return shlex.join(["texsynth", "finalize", str(run.path)])
    if sum(statuses.values()) > statuses.get("ok", 0):
        return retry_command(run, statuses)
    return shlex.join(["texsynth", "report", str(run.path)])


def retry_command(run: RunDirectory, statuses: Mapping[str, int]) -> str:
    """The command that does the tasks of some rows again.

    Args:
        run: The run directory.
        statuses: Number of rows by status; `ok` and those without a row are left out.
    """
    again = [status for status, count in statuses.items() if count and status != "ok"]
    return shlex.join(["texsynth", "retry", str(run.path), "--retry", ",".join(again)])
