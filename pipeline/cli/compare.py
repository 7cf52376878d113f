"""`texsynth compare RUN_A RUN_B`: which of two runs is better, on the textures of both."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.compare import MEASURES, Comparison, Summary, compare_runs
from pipeline.query_output import write_table
from pipeline.terminal import visible

HEADER = ("measure", "pairs", "exemplars", "B better", "ties", "B against A", "95 % interval")


def compare(
    run_a: Path,
    run_b: Path,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Say which of two runs is better, measure by measure, on the textures of both.

    Pairs have the same exemplar, crop and variation. What is not comparable is not compared, with
    a warning. Ratios are of geometric means, B over A; intervals are Student's, over exemplars.

    Args:
        run_a: Run directory, finished or not.
        run_b: The other.
        as_json: Print one JSON object instead of tables.
    """
    found = compare_runs(run_a, run_b)
    for warning in found.warnings:
        sys.stderr.write(visible(f"warning: {warning}") + "\n")
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2, allow_nan=False))
    else:
        _print_tables(found)
    return 0


def _print_tables(found: Comparison) -> None:
    for letter, name, textures in zip("AB", found.names, found.textures, strict=True):
        print(visible(f"{letter}: {name}, {textures} textures"))
    print(f"{found.pairs} pairs\n")
    write_table(HEADER, [_row(summary) for summary in found.summaries])
    if found.by_category:
        print()
        names = [measure.name for measure in MEASURES]
        rows = [
            found.by_category[i : i + len(names)]
            for i in range(0, len(found.by_category), len(names))
        ]
        write_table(
            ("category", "pairs", *names),
            [[row[0].category, max(s.pairs for s in row), *map(_in_short, row)] for row in rows],
        )


def _row(summary: Summary) -> tuple[str | int, ...]:
    interval = ""
    if summary.low is not None and summary.high is not None:
        interval = f"{_number(summary, summary.low)} to {_number(summary, summary.high)}"
    counts = (summary.pairs, summary.exemplars, summary.b_wins, summary.ties)
    value = "" if summary.value is None else _number(summary, summary.value)
    return (summary.measure, *counts, value, interval)


def _in_short(summary: Summary) -> str:
    """Value and interval in one cell."""
    *_, value, interval = _row(summary)
    return f"{value} ({interval})" if interval else str(value)


def _number(summary: Summary, value: float) -> str:
    return f"x {value:.4g}" if summary.kind == "ratio" else f"{value:+.3g}"
