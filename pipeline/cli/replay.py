"""`texsynth replay RUN TASK_ID`: one row made again, and whether it is the same."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.cli import EXIT_FAILED_ROWS
from pipeline.cli.places import output_place
from pipeline.replay import Replay, load_row, replay_row
from pipeline.row_comparison import RowComparison
from pipeline.rundir import RunDirectory, require_run
from pipeline.terminal import visible, visible_lines


def replay(
    run: Path,
    task_id: str,
    /,
    *,
    device: str | None = None,
    out: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Make one row of a run again, alone on one lane, and say whether it is the same.

    A failed task is worked on again, to see its error. Nothing in the run directory changes.
    Exit codes: 0 identical, the same up to rounding, another texture of like loss, or the same
    error; 2 refused, such as for a changed source; 3 different.

    Args:
        run: Run directory, finished or not.
        task_id: Of any committed row.
        device: cpu, cuda or cuda:N; default: as the run.
        out: Folder or URI for exemplar.png, stored.png and replayed.png, made if need be.
        as_json: Print one JSON object instead of lines.
    """
    directory = RunDirectory(run)
    place = None if out is None else output_place(out)
    require_run(directory)
    row = load_row(directory, task_id)
    if row["error_type"] in ("ProcessDeathError", "DecoderDeathError"):
        sys.stderr.write("a process died of this task: this one may, too\n")
        sys.stderr.flush()
    found = replay_row(directory, row, device=device, out=place)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        print("\n".join(_describe(found)))
    return EXIT_FAILED_ROWS if found.verdict == "different" else 0


def _describe(replay: Replay) -> Iterator[str]:
    yield visible(f"{replay.task_id} ({replay.status}): {replay.verdict}: {replay.reason}")
    for line in replay.circumstances:
        yield visible(f"  {line}")
    if replay.comparison is not None:
        yield from _describe_numbers(replay.comparison)
    for name, error in (("in the run", replay.stored_error), ("here", replay.error)):
        if error is not None:
            yield visible_lines(f"  {name}: {error.rstrip()}")


def _describe_numbers(comparison: RowComparison) -> Iterator[str]:
    pixels = comparison.pixels
    if pixels is not None:
        yield (
            f"  pixels: {pixels.share:.2%} differ, by {pixels.largest} of 255 at most, "
            f"{pixels.mean:.3g} on average"
        )
    for name, loss in comparison.losses.items():
        yield f"  {name}: {loss.stored} stored, {loss.replayed} here, {loss.relative:.1e} apart"
    yield f"  delivered_loss of the stored image, measured here: {comparison.measured_loss}"
    for name, (stored, here) in comparison.efforts.items():
        yield f"  {name}: {stored} stored, {here} here"
