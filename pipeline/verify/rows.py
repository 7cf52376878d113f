"""Whether the values of an output row agree with each other and with `run.json`.

Every rule gives, for a table, a mask of the rows that break it, the column to show, and what was
expected there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import STATUSES
from pipeline.flags import RULES as FLAGS
from pipeline.flags import RuleError
from pipeline.resume import RunRecord
from pipeline.schema import REQUIRED_COLUMNS, compute_flags
from pipeline.tasks import task_seed

IDENTITY, SEEDS, VALUES, FLAG_RULES = "identity", "seeds", "values", "flags"
ROW_CHECKS = (IDENTITY, SEEDS, VALUES, FLAG_RULES)
WITH_IMAGE = ("ok", "timeout")
LOSSES = ("float_loss", "delivered_loss", "objective_loss")

Broken = tuple[Any, str, str]
Rule = Callable[[pa.Table, RunRecord | None], Iterator[Broken]]


def find_row_problems(table: pa.Table, record: RunRecord | None) -> Iterator[tuple[str, str]]:
    """What is wrong with the values of some rows.

    Args:
        table: All columns of `row_schema`, each in one chunk.
        record: The run's; None where it cannot be read, then nothing is compared with it.

    Yields:
        The check, one of ROW_CHECKS, and a line that names the task.
    """
    for check, rule in RULES.items():
        for mask, column, expected in rule(table, record):
            for index in pc.indices_nonzero(mask).to_pylist():
                task, got = table["task_id"][index].as_py(), table[column][index].as_py()
                yield check, f"task {task!r}: {column} is {got!r}, expected {expected}"


def has_image(table: pa.Table) -> pa.ChunkedArray:
    """Which rows must have a texture, by their status."""
    return pc.is_in(table["status"], pa.array(WITH_IMAGE))


def count_other_seeds(table: pa.Table, record: RunRecord) -> int:
    """How many rows were made again, with a seed that is not that of the first attempt."""
    return pc.sum(pc.and_(_has_other_seed(table, record), _is_again(table))).as_py() or 0


def _check_identity(table: pa.Table, record: RunRecord | None) -> Iterator[Broken]:
    if record is None:
        return
    fingerprint, weights = record.fingerprint, record.weights_sha256
    yield _differs(table["config_fingerprint"], fingerprint), "config_fingerprint", fingerprint
    other = _differs(table["weights_sha256"], weights)
    unknown = pc.and_(pc.is_null(table["weights_sha256"]), pc.invert(has_image(table)))
    yield pc.and_not(other, unknown), "weights_sha256", weights


def _check_seeds(table: pa.Table, record: RunRecord | None) -> Iterator[Broken]:
    if record is not None:
        wrong = pc.and_not(_has_other_seed(table, record), _is_again(table))
        yield wrong, "seed", f"that of run seed {record.identity['seed']} and this task"


def _check_values(table: pa.Table, _: RunRecord | None) -> Iterator[Broken]:
    for name in REQUIRED_COLUMNS:
        yield pc.is_null(table[name]), name, "a value"
    yield pc.invert(pc.is_in(table["status"], pa.array(STATUSES))), "status", "|".join(STATUSES)
    made = has_image(table)
    absent = pc.is_null(pc.struct_field(table["image"], "bytes"))
    yield pc.and_(made, absent), "image", "PNG bytes in a row with a texture"
    for name in LOSSES:
        finite = pc.fill_null(pc.is_finite(table[name]), False)
        yield pc.and_not(made, finite), name, "a finite number in a row with a texture"
    for name in ("error_type", "error"):
        silent = pc.and_not(pc.is_null(table[name]), made)
        yield silent, name, "what went wrong with a row without a texture"


def _check_flags(table: pa.Table, _: RunRecord | None) -> Iterator[Broken]:
    try:
        computed = compute_flags(table)
    except RuleError:
        yield pa.array([True] * len(table)), "flag_rules", "one good rule for every flag"
        return
    for name in FLAGS:
        yield _differs(table[name], computed[name]), name, "what its numbers and thresholds give"


RULES: Mapping[str, Rule] = {
    IDENTITY: _check_identity,
    SEEDS: _check_seeds,
    VALUES: _check_values,
    FLAG_RULES: _check_flags,
}


def _differs(values: Any, expected: Any) -> Any:
    """Whether values differ; null is a value of its own."""
    expected = pa.scalar(expected) if isinstance(expected, str) else expected
    unequal = pc.fill_null(pc.not_equal(values, expected), False)
    return pc.or_(unequal, pc.xor(pc.is_null(values), pc.is_null(expected)))


def _has_other_seed(table: pa.Table, record: RunRecord) -> Any:
    seed = record.identity["seed"]
    tasks = table["task_id"].to_pylist()
    expected = [None if task is None else task_seed(seed, task) for task in tasks]
    return _differs(table["seed"], pa.chunked_array([pa.array(expected, pa.int64())]))


def _is_again(table: pa.Table) -> Any:
    return pc.fill_null(pc.greater(table["attempts"], 1), False)
