"""Flags of a run computed anew from its stored numbers, by other rules; no device is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.committed import read_committed
from pipeline.finalize import Finalized, finalize
from pipeline.flags import RULES, resolve_rules, validate_rules
from pipeline.resume import load_tasks, write_run_record
from pipeline.run import require_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema
from pipeline.session import hold_run


@dataclass(frozen=True)
class Reflagged:
    """What became of the flags.

    Attributes:
        rules: Of all flags, as they are now.
        before: How many rows had each flag.
        after: How many have it now.
        finalized: What is in the directory now.
    """

    rules: Mapping[str, str]
    before: Mapping[str, int]
    after: Mapping[str, int]
    finalized: Finalized


def reflag_run(run: RunDirectory, changes: Mapping[str, str], *, standing: bool) -> Reflagged:
    """Give all rows of a run other rules, and the flags that follow from them.

    `run.json` has the rules from then on, so that rows made later get them, too; the rows are
    compacted as at the end of a run. A crash in between leaves each row with the flags of its own
    rules, and the same command goes on.

    Args:
        run: The run directory.
        changes: Rule by flag; all other flags keep theirs.
        standing: Whether they get the standing rules instead.

    Raises:
        RuleError: For a flag that does not exist, or a rule that is none.
        NotARunError, RunRecordError, RunBusyError, OSError: As `finalize_run`.
    """
    record = require_record(run)
    kept = {} if standing else record.config.get("flag_rules") or {}
    own = {**kept, **changes}
    rules = resolve_rules(own)
    validate_rules(rules, row_schema(record.carried))
    run.create()
    with hold_run(run):
        before = _count(run)
        write_run_record(run, replace(record, config={**record.config, "flag_rules": own}))
        finalized = finalize(run, load_tasks(run)["task_id"], rules=rules)
    return Reflagged(rules, before, _count(run), finalized)


def _count(run: RunDirectory) -> dict[str, int]:
    """Rows by flag."""
    table, _ = read_committed(run, list(RULES))
    return {name: Counter(table[name].to_pylist())[True] for name in RULES}
