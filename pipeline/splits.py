"""Which exemplars of a manifest are in which split, of one partition or of its own column.

DTD deals its images into train, val and test ten times; the manifest has a column for each.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest import Manifest
from pipeline.table_stream import TableStream

SPLITS = ("train", "val", "test")
HELD_OUT = ("val", "test")
"""What no training data may come from."""
MAX_NAMED = 10
"""Values of a column that a message names."""


class SplitError(ValueError):
    """A manifest does not have the split that was asked for."""


def select_split(manifest: Manifest, partition: int | None, split: str | None) -> TableStream:
    """The rows of a manifest that a run may use.

    Args:
        manifest: as read.
        partition: 1 to 10; None for the manifest's own column `split`.
        split: text in that column; None for all rows.

    Returns:
        Rows in the manifest's order. With a partition, `split` has its values.

    Raises:
        SplitError: no such column, nothing in it, or no row of this split.
    """
    if partition is None and split is None:
        return manifest.stream
    name = split_column(partition)
    column = load_split(manifest, partition)
    if split is not None and not pc.any(pc.equal(column, split)).as_py():
        raise SplitError(
            f"split is {split!r}, expected one of column {name!r} of manifest "
            f"'{manifest.path}', which has {describe_splits(column)}"
        )

    def select(batch: pa.Table) -> pa.Table:
        batch = _with_column(batch, "split", batch[name])
        return batch if split is None else batch.filter(pc.equal(batch[name], split))

    return manifest.stream.map(select)


def load_split(manifest: Manifest, partition: int | None) -> pa.ChunkedArray:
    """The split of every row; null where a row is in none.

    Raises:
        SplitError: no such column, or nothing in it.
    """
    name = split_column(partition)
    columns = manifest.stream.schema.names
    if name not in columns:
        found = [other for other in columns if other == "split" or other.startswith("split_")]
        raise SplitError(
            f"manifest '{manifest.path}' has no column {name!r}; it has "
            f"{', '.join(found) or 'no columns of splits'}"
        )
    column = manifest.stream.read([name])[name]
    if column.null_count == len(column):
        raise SplitError(f"column {name!r} of manifest '{manifest.path}' is empty in every row")
    return column


def require_known_splits(manifest: Manifest, partition: int | None) -> pa.ChunkedArray:
    """The split of every row, each one of SPLITS or null.

    Raises:
        SplitError: as `load_split`, or for another value.
    """
    column = load_split(manifest, partition)
    if not pc.all(pc.is_in(column.drop_null(), pa.array(SPLITS))).as_py():
        raise SplitError(
            f"column {split_column(partition)!r} of manifest '{manifest.path}' has "
            f"{describe_splits(column)}; expected {', '.join(SPLITS)} or nothing"
        )
    return column


def split_column(partition: int | None) -> str:
    """The column of a manifest that says the split."""
    return "split" if partition is None else f"split_{partition}"


def describe_splits(column: pa.ChunkedArray) -> str:
    """How many rows are in each split: `train (40), nothing (3)`."""
    counts = pc.value_counts(column.combine_chunks()).to_pylist()
    counts.sort(key=lambda item: -item["counts"])
    named = [
        f"{'nothing' if item['values'] is None else item['values']} ({item['counts']:,})"
        for item in counts[:MAX_NAMED]
    ]
    more = [f"and {len(counts) - MAX_NAMED} more"] if len(counts) > MAX_NAMED else []
    return ", ".join(named + more)


def _with_column(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)
