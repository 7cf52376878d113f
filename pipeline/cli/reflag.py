"""`texsynth reflag RUN`: other rules for the flags of a run."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from pipeline.flags import parse_rule
from pipeline.reflag import Reflagged, reflag_run
from pipeline.rundir import RunDirectory
from pipeline.terminal import visible


def reflag(
    run: Path,
    /,
    *,
    rule: Annotated[list[str], Parameter(negative=())] = [],  # noqa: B006
    standing: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Compute the flags of a run anew from its stored numbers; no device is needed.

    Args:
        run: Run directory.
        rule: `name: expression`, SQL over the columns of a row, such as
            'noisy: high_frequency_ratio > 1.5'; may be given several times.
        standing: Give the flags that are not named the standing rules, not those of the run.
    """
    changes = dict(parse_rule(text) for text in rule)
    _print(reflag_run(RunDirectory(run), changes, standing=standing), Console())


def _print(done: Reflagged, console: Console) -> None:
    table = Table("flag", "before", "now", "rule")
    for name, text in done.rules.items():
        table.add_row(name, str(done.before[name]), str(done.after[name]), visible(text))
    console.print(table)
    console.print(f"of {done.finalized.rows} rows", highlight=False)
