"""`texsynth run`: a manifest of textures in, a run directory out."""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from pipeline.cli import EXIT_FAILED_ROWS
from pipeline.cli.places import LocalFile
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.outcome import RunOutcome
from pipeline.run import run_manifest
from pipeline.signals import exit_code
from pipeline.terminal import visible

MAX_ERRORS = 5
"""Different errors of failed rows that are printed."""


def run(
    manifest: Path,
    /,
    *,
    out: Path,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
    config: LocalFile | None = None,
    set_: Annotated[list[str], Parameter(name="--set", negative=(), show_default=False)] = [],  # noqa: B006
) -> int:
    """Synthesise the textures of a manifest into a run directory, or go on with it.

    The same command on the same directory continues; finished textures are kept. Exit codes: 0 all
    done, 2 bad usage, refused, or broken off by an error, 3 finished with failed rows, 130 or 143
    stopped by a signal.

    Args:
        manifest: CSV or Parquet, a file or a URI; `texsynth manifest` makes one.
        out: Run directory, made if need be; a folder or a URI, such as s3://bucket/run.
        options: All other settings.
        config: YAML file of settings; `texsynth config show` prints one.
        set_: One setting, as NAME=VALUE; synthesis.NAME=VALUE reaches the preset's settings.
    """
    console = Console()
    outcome = run_manifest(
        manifest, out, load_config(options, file=config, assignments=set_), console
    )
    return print_outcome(outcome, console)


def print_outcome(outcome: RunOutcome, console: Console) -> int:
    """Say what a run has made and where; return the exit code."""
    where = str(outcome.run.path)
    lines = [*_count_lines(outcome), *_error_lines(outcome)]
    for problem in outcome.problems:
        lines.append(f"unreadable, left alone: {problem.path}: {problem.reason}")
    if outcome.stopped_by is not None:
        lines.append(f"stopped by {outcome.stopped_by.name}: the same command goes on")
    else:
        if outcome.missing:
            lines.append(f"{outcome.missing} tasks have no row; the same command goes on")
        lines.append(f"textures: {where}/textures   metrics: {where}/metrics.parquet")
        lines.append(f"look at it: {shlex.join(['texsynth', 'report', where])}")
    for line in lines:
        console.print(visible(line), highlight=False, markup=False, soft_wrap=True)
    if outcome.stopped_by is not None:
        return exit_code(outcome.stopped_by)
    return 0 if outcome.complete else EXIT_FAILED_ROWS


def _count_lines(outcome: RunOutcome) -> list[str]:
    counts = [f"{count} {status}" for status, count in sorted(outcome.statuses.items())]
    if outcome.missing:
        counts.append(f"{outcome.missing} missing")
    noun = "task" if outcome.tasks == 1 else "tasks"
    return [f"{outcome.tasks} {noun}: {', '.join(counts)} ({outcome.done_now} in this run)"]


def _error_lines(outcome: RunOutcome) -> list[str]:
    if not outcome.errors:
        return []
    shown = list(outcome.errors.items())[:MAX_ERRORS]
    lines = [f"  {error}{f' ({count} rows)' if count > 1 else ''}" for error, count in shown]
    if len(outcome.errors) > len(shown):
        lines.append(f"  and {len(outcome.errors) - len(shown)} more")
    statuses = ",".join(sorted(set(outcome.statuses) - {"ok"}))
    where = str(outcome.run.path)
    lines.append(f"all of them: {shlex.join(['texsynth', 'failures', where])}")
    again = shlex.join(["texsynth", "retry", where, "--retry", statuses])
    return [*lines, f"done again by: {again}"]
