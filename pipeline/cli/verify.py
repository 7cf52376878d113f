"""`texsynth verify RUN`: whether a run directory holds what it says."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.cli import EXIT_FAILED_ROWS
from pipeline.rundir import RunDirectory
from pipeline.verify import Check, verify_run


def verify(
    run: Path,
    /,
    *,
    images: bool = True,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Prove from the files alone that every task has one right row; change nothing.

    Exit codes: 0 no problem, 2 no run directory, 3 problems, each with what mends it.

    Args:
        run: Run directory, finished or not; also while a process is at work on it.
        images: Decode the stored PNGs and compare the source images.
        as_json: Print one JSON object instead of lines.
    """
    checks = verify_run(RunDirectory(run), images=images)
    ok = all(check.ok for check in checks)
    if as_json:
        values = {"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]}
        print(json.dumps(values, indent=2))
    else:
        print("\n".join(line for check in checks for line in _describe(check)))
    return 0 if ok else EXIT_FAILED_ROWS


def _describe(check: Check) -> list[str]:
    lines = [f"{'ok     ' if check.ok else 'problem'} {check.name}: {check.found}"]
    lines += [f"          {problem}" for problem in check.problems]
    return lines + [f"          to mend: {check.mend}"] * bool(check.mend)
