"""Tasks: every manifest row, times crops, times variations.

A task's identity and seed depend only on the run's seed, the exemplar's id, the crop and the
variation, so that a run can be resumed, or extended by rows or variations, without changing the
tasks it already has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.table_stream import BATCH_ROWS

TASK_COLUMNS = (
    "task_id",
    "exemplar_id",
    "path",
    "category",
    "split",
    "crop",
    "variation",
    "seed",
    "blend_exemplar_id",
    "blend_path",
    "blend_exemplar_sha256",
    "blend_category",
    "blend_weight",
)
BLEND_FIELDS = (
    *(pa.field(name, pa.string()) for name in TASK_COLUMNS[8:12]),
    pa.field(TASK_COLUMNS[12], pa.float64()),
)
"""Of the partner in a blend (`pipeline.blends`); null in all other tasks."""
# Sizes of the source file: output rows have columns of these names for the texture, and give the
# source's as measured.
SOURCE_COLUMNS = ("width", "height")


class Counts(NamedTuple):
    """Crops of each exemplar, and variations of each crop; both at least 1."""

    crops: int
    variations: int


def expand_tasks(
    table: pa.Table, *, crops: int, variations: int, seed: int, mark: Literal["v", "b"] = "v"
) -> pa.Table:
    """Return one row per task, exemplar by exemplar, crop by crop, variation by variation.

    In this order the tasks of one exemplar are neighbours: its file is decoded for all of them
    at once, and a run that is cut short leaves whole exemplars instead of a little of each.

    Args:
        table: rows of a manifest, as `load_manifest` returns them.
        crops: crops of each exemplar, numbered from 0; at least 1.
        variations: variations of each crop, numbered from 0; at least 1.
        seed: the run's seed, any integer.
        mark: before the number of a variation, or of a blend, in a task's id.

    Returns:
        `TASK_COLUMNS`, then all further columns but `SOURCE_COLUMNS` in the manifest's order.
        `task_id` is "EXEMPLAR_ID-cCROP-vVARIATION" (or -bNUMBER, of a blend), `seed` is
        `task_seed(seed, task_id)`; `category` and `split` are null where the manifest has no
        such column.

    Raises:
        ValueError: a count below 1, a column missing, or a column whose name a task needs.
    """
    counts = Counts(crops, variations)
    return pa.concat_tables(expand_batches([table], counts, seed=seed, mark=mark))


def expand_batches(
    batches: Iterable[pa.Table],
    counts: Counts,
    *,
    seed: int,
    mark: Literal["v", "b"] = "v",
) -> Iterator[pa.Table]:
    """`expand_tasks` of the rows of a manifest batch by batch.

    A batch of tasks has no more than BATCH_ROWS, unless one exemplar has; one of no rows gives one.
    """
    for batch in batches:
        _require_expandable(batch, counts)
        rows = max(1, BATCH_ROWS // (counts.crops * counts.variations))
        for start in range(0, max(batch.num_rows, 1), rows):
            yield _expand_slice(batch.slice(start, rows), counts, seed, mark)


def task_seed(seed: int, task_id: str) -> int:
    """Return a task's seed: the first 63 bits of sha256("SEED:TASK_ID"), big-endian."""
    digest = hashlib.sha256(f"{seed}:{task_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _require_expandable(table: pa.Table, counts: Counts) -> None:
    for name, count in counts._asdict().items():
        if count < 1:
            raise ValueError(f"{name} {count}: expected at least 1")
    missing = {"exemplar_id", "path"}.difference(table.column_names)
    if missing:
        raise ValueError(f"manifest columns {table.column_names}: {sorted(missing)} missing")
    own = {"task_id", "crop", "variation", "seed", *(field.name for field in BLEND_FIELDS)}
    taken = own.intersection(table.column_names)
    if taken:
        raise ValueError(f"manifest columns {sorted(taken)}: tasks have columns of these names")


def _expand_slice(table: pa.Table, counts: Counts, seed: int, mark: str) -> pa.Table:
    for name in ("category", "split"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    crops, variations = counts
    exemplars = np.arange(table.num_rows)
    crop = np.tile(np.repeat(np.arange(crops, dtype=np.int32), variations), len(exemplars))
    variation = np.tile(np.arange(variations, dtype=np.int32), len(exemplars) * crops)
    tasks = table.take(pa.array(np.repeat(exemplars, crops * variations)))
    numbers = {"crop": pa.array(crop), "variation": pa.array(variation)}
    task_id = pc.binary_join_element_wise(
        tasks["exemplar_id"],
        pc.binary_join_element_wise("c", numbers["crop"].cast(pa.string()), ""),
        pc.binary_join_element_wise(mark, numbers["variation"].cast(pa.string()), ""),
        "-",
    )
    seeds = [task_seed(seed, name) for name in task_id.to_pylist()]
    columns = {
        **{name: tasks[name] for name in tasks.column_names},
        **numbers,
        "task_id": task_id,
        "seed": pa.array(seeds, pa.int64()),
        **{field.name: pa.nulls(len(tasks), field.type) for field in BLEND_FIELDS},
    }
    placed = {*TASK_COLUMNS, *SOURCE_COLUMNS}
    further = [name for name in table.column_names if name not in placed]
    return pa.table({name: columns[name] for name in (*TASK_COLUMNS, *further)})
