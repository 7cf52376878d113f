"""`texsynth query RUN [RUN ...] "SELECT ..."`: SQL over the metrics of runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.cli.places import output_place
from pipeline.named_queries import QUERIES, find_query
from pipeline.query_output import OutputFormat, write_selection
from pipeline.sql import QueryError, open_metrics
from pipeline.storage import as_path
from pipeline.terminal import visible


def query(
    *runs_and_sql: str,
    named: str | None = None,
    list_queries: Annotated[bool, Parameter(name="--list", negative="")] = False,
    format: OutputFormat = "table",
    output: Path | None = None,
) -> int:
    """Ask runs in SQL: views `metrics`, `flags` and `measures`, with a column `run`.

    Runs may be finished or at work. See docs/queries.md.

    Args:
        runs_and_sql: Run directories, then one SELECT, in quotes; none with --named.
        named: Ask this query instead.
        list_queries: Say which named queries there are.
        format: table (the first 200 rows), csv, json (one object per line) or parquet.
        output: File or URI for the answer; parquet needs one.
    """
    if list_queries:
        for one in QUERIES:
            print(f"{one.name}\n    {one.question}")
        return 0
    if format == "parquet" and output is None:
        raise QueryError("--format parquet: got no --output, expected a file")
    place = None if output is None else output_place(output)
    runs, sql = _split(runs_and_sql, named)
    with open_metrics(runs) as database:
        for problem in database.problems:
            sys.stderr.write(visible(f"unreadable: {problem.path}: {problem.reason}") + "\n")
        try:
            write_selection(database.select(sql), format, place)
            sys.stdout.flush()
        except BrokenPipeError:
            # Who reads has seen enough; what is left in the buffer goes nowhere, in silence.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _split(arguments: tuple[str, ...], named: str | None) -> tuple[list[str], str]:
    """The runs, and the SQL to ask them."""
    if named is not None:
        runs, sql = list(arguments), find_query(named).sql
    else:
        runs, sql = list(arguments[:-1]), "".join(arguments[-1:])
    if not runs:
        raise QueryError(f"got {list(arguments)}, expected run directories, then SQL or --named")
    if named is not None and " " in runs[-1] and not as_path(runs[-1]).exists():
        raise QueryError(f"--named {named} and SQL {runs[-1]!r}: expected one of them")
    return runs, sql
