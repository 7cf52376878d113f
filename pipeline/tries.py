"""Several tries at one texture, mostly under other seeds: the best is kept, all are recorded.

Every try is committed at once, as the row of the task with the next number of attempts. That row
has the texture and the numbers of the best try so far, and in `tries` what became of each, the
first included. So the rule that the row with the most attempts counts is all that a reader needs,
and a death between two tries loses neither a texture nor the count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import TRY
from pipeline.committed import Scan, UnreadableFileError, read_from_scan, read_rows
from pipeline.flags import FAULTS
from pipeline.rundir import RunDirectory
from pipeline.schema import rows_to_table
from pipeline.tasks import task_seed

Row = dict[str, Any]


class Tries:
    """The rows so far of the tasks of one block that are, or will be, worked on again.

    Args:
        run: The run directory.
        schema: Of its rows.
        retry_flagged: New seeds for a texture that is not accepted.
    """

    def __init__(self, run: RunDirectory, schema: pa.Schema, retry_flagged: int) -> None:
        self._run, self._schema, self._retry_flagged = run, schema, retry_flagged
        self._known: dict[str, Row] = {}
        self._due: dict[str, Row] = {}
        self._scan: Scan | None = None

    def begin(self, block: Sequence[Row], left: Sequence[Row]) -> list[Row]:
        """The tasks to begin with: those left, and others that have a row but seeds left, too.

        Args:
            block: All tasks.
            left: Those of them without a row of this session.
        """
        new = {task["task_id"] for task in left}
        others = [task for task in block if task["task_id"] not in new]
        again = [task for task in left if task["attempts"]]
        if self._retry_flagged and others:
            again += others
            # Another actor may have made their rows since this one has looked.
            self._scan = None
        self._due = {}
        self._known = self._load([task["task_id"] for task in again]) if again else {}
        return [*left, *self._next_tries(others)]

    def keep(self, made: Row) -> Row:
        """The row to commit: the one that was made, or the best so far of its task.

        Raises:
            SchemaError: The row that was made does not fit the schema.
        """
        earlier = self._known.get(made["task_id"])
        if earlier is None and not self._retry_flagged:
            return made
        row: Row = rows_to_table([made], self._schema).to_pylist()[0]
        if earlier is not None and is_other_try(earlier, row):
            row = keep_better(earlier, row)
        if is_due(row, self._retry_flagged):
            self._due[row["task_id"]] = row
        return row

    def take_due(self, block: Sequence[Row]) -> list[Row]:
        """The tasks that have seeds left after this round, each for its next try."""
        self._known, self._due = self._due, {}
        return self._next_tries(block)

    def _next_tries(self, tasks: Iterable[Row]) -> list[Row]:
        rows = [(task, self._known.get(task["task_id"])) for task in tasks]
        return [
            task | {"attempts": row["attempts"], "seed": next_seed(row)}
            for task, row in rows
            if row is not None and is_due(row, self._retry_flagged)
        ]

    def _load(self, task_ids: Collection[str]) -> dict[str, Row]:
        """The committed rows of some tasks, pictures included, by task id."""
        wanted = pa.array(task_ids, pa.string())
        rows = None if self._scan is None else self._read_again(self._scan, wanted)
        if rows is None:
            read = read_from_scan(self._run, lambda scan: (scan, self._read(scan, wanted)))
            # The rows of all attempts are needed no more, and in a large run they are large.
            self._scan, rows = replace(read[0], keys=read[0].keys.schema.empty_table()), read[1]
        return {row["task_id"]: row for row in rows}

    def _read_again(self, scan: Scan, wanted: pa.Array) -> list[Row] | None:
        """As `_read`; None where the files have moved or broken since the scan."""
        try:
            return self._read(scan, wanted)
        except (FileNotFoundError, UnreadableFileError):
            return None

    def _read(self, scan: Scan, wanted: pa.Array) -> list[Row]:
        names = [name for name in self._schema.names if name in scan.schema.names]
        chosen = scan.winners.filter(pc.is_in(scan.winners["task_id"], wanted))
        rows: list[Row] = read_rows(scan, chosen, names).to_pylist()
        return rows


def keep_better(earlier: Row, made: Row) -> Row:
    """The row to commit after one more try at a texture.

    An accepted texture is better than another, an `ok` one than one whose time was up, and that
    than none; among equals the one of lower delivered loss, the earlier where both are the same.

    Args:
        earlier: The row of the task so far, with its flags.
        made: The row of this try alone, with its flags.
    """
    tries = [*(earlier["tries"] or [_describe(earlier)]), _describe(made)]
    best = max(earlier, made, key=_rank)
    names = ("attempts", "finished_at")
    return best | {name: made[name] for name in names} | {"tries": tries}


def is_other_try(earlier: Row, made: Row) -> bool:
    """Whether a row is another try at a texture that there is; else it replaces it, as a retry.

    A retry of one whose time was up has the same seed, so that an `ok` row is what that one would
    have become. Any other that it ends in must not cost the picture that there is.
    """
    if earlier["status"] == "ok":
        return bool(made["seed"] != earlier["seed"])
    return earlier["image"] is not None and made["status"] != "ok"


def is_due(row: Row, retry_flagged: int) -> bool:
    """Whether a task is to be tried once more: `ok`, not accepted, tried too seldom as yet."""
    refused = row["status"] == "ok" and row["accepted"] is False
    return bool(refused and len(row["tries"] or [row]) <= retry_flagged)


def next_seed(row: Mapping[str, Any]) -> int:
    """The seed of the next try at a texture, by the `seed` and `attempts` of its row."""
    return task_seed(row["seed"], f"{row['task_id']}:{row['attempts']}")


def _rank(row: Row) -> tuple[bool, bool, bool, float]:
    loss = row["delivered_loss"]
    has_texture = row["image"] is not None and loss is not None
    return bool(row["accepted"]), row["status"] == "ok", has_texture, -loss if has_texture else 0.0


def _describe(row: Row) -> Row:
    """What `tries` has of a try."""
    faults = [fault for fault in FAULTS if row[fault]]
    values = row | {"accepted": bool(row["accepted"]), "faults": faults}
    return {field.name: values[field.name] for field in TRY}
