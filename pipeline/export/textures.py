"""The textures of an export: which, in which order, under which names and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.committed import Scan, UnreadableFileError, read_from_scan, read_rows
from pipeline.export.names import make_names
from pipeline.labels import classes_in_scan
from pipeline.manifest.checks import SPLIT_COLUMNS
from pipeline.manifest.sources import JOINT_LABELS
from pipeline.parents import PARENTS
from pipeline.rundir import RunDirectory, require_run
from pipeline.selection import LOCATED, Selection, SelectionError, locate_in_scan, read_images
from pipeline.shards import ROW_GROUP_ROWS, compute_rows_digest

UNCATEGORISED = "uncategorised"
UNASSIGNED = "unassigned"
BLENDED = PARENTS[1][::2]
"""Columns that name a second parent, id and SHA-256, of textures that are blended of two."""
LABELS = "labels"
"""Column with the weights of a texture's categories."""
CARRIED = (*SPLIT_COLUMNS, JOINT_LABELS, LABELS, *BLENDED)
"""Columns of an export that a run need not have."""
MADE_BY = ("preset", "config_fingerprint", "weights", "weights_sha256", "texsynth_version")
"""Columns that say what made a texture."""
MEASURES = (
    *("float_loss", "delivered_loss", "spectrum_error", "colour_mean_distance"),
    *("displacement_score", "layout_correlation"),
)
"""Columns whose medians a card reports."""
NOT_A_WORD = r"\W"

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Textures:
    """The chosen textures of a run, without their images, sorted by category and task id.

    Attributes:
        run: The run.
        selection: What was chosen.
        table: `LOCATED`, then `attempts`, those of CARRIED that the run has, MADE_BY and MEASURES.
        classes: All categories of the run, sorted, whatever was chosen, so that two exports of one
            run have the same labels; UNCATEGORISED after them if a texture has none.
    """

    run: RunDirectory
    selection: Selection
    table: pa.Table
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def names(self) -> list[str]:
        """Of each texture, a name that no other has: its task id, where that can be one."""
        ids: list[str] = self.table["task_id"].to_pylist()
        names = make_names(ids)
        return [names[task_id] for task_id in ids]

    @cached_property
    def categories(self) -> list[str]:
        """Of each texture, its category."""
        return _filled(self.table["category"], UNCATEGORISED)

    @cached_property
    def labels(self) -> list[int]:
        """Of each texture, the number of its category in `classes`."""
        number = {name: index for index, name in enumerate(self.classes)}
        return [number[category] for category in self.categories]

    @cached_property
    def folders(self) -> list[str]:
        """Of each texture, the name of its category's folder."""
        names = make_names(self.classes)
        return [names[category] for category in self.categories]

    @cached_property
    def splits(self) -> list[str]:
        """Of each texture, the name of its split, of letters, digits and "_"."""
        splits = _filled(self.table["split"], UNASSIGNED)
        names = make_names(set(splits), NOT_A_WORD)
        return [names[split] for split in splits]

    @property
    def split_columns(self) -> tuple[str, ...]:
        """The columns with splits of further partitions that the run has."""
        return tuple(name for name in SPLIT_COLUMNS if name in self.table.column_names)

    @property
    def has_splits(self) -> bool:
        """Whether any of the textures is in a split."""
        return any(split is not None for split in self.table["split"].unique().to_pylist())

    def numbers_by_split(self) -> dict[str, Numbers]:
        """The numbers of the textures of each split."""
        splits = np.array(self.splits)
        return {split: np.flatnonzero(splits == split) for split in sorted(set(self.splits))}

    def digest(self) -> str:
        """Of the tasks and their attempts; 16 hex digits."""
        columns = (self.table[name].to_pylist() for name in ("task_id", "attempts"))
        return compute_rows_digest(zip(*columns, strict=True))

    def read(self, numbers: Numbers) -> Iterator[tuple[int, bytes]]:
        """Some textures, each with the bytes of its PNG, in the order that is given.

        As many images as a row group has are held at a time.

        Raises:
            SelectionError: A file of the run is damaged, or was changed meanwhile.
        """
        for start in range(0, len(numbers), ROW_GROUP_ROWS):
            batch = numbers[start : start + ROW_GROUP_ROWS]
            located = self.table.select(LOCATED.names).take(pa.array(batch))
            located = located.append_column("number", pa.array(batch))
            stored = located.sort_by([(name, "ascending") for name in LOCATED.names[-3:]])
            try:
                pngs = {row["number"]: png for row, png in read_images(self.run, stored)}
            except UnreadableFileError as error:
                mend = f"`texsynth verify {self.run.path}` says how to mend it"
                raise SelectionError(f"{error}; {mend}") from error
            yield from ((int(number), pngs[number]) for number in batch)


def load_textures(run: RunDirectory, selection: Selection) -> Textures:
    """The chosen textures of a run.

    Raises:
        NotARunError: It is no run directory.
        SelectionError: There are none, or files are damaged.
    """
    require_run(run)
    # In one scan: in another, a task may have another row by then.
    return read_from_scan(run, lambda scan: _read_textures(run, scan, selection))


def _read_textures(run: RunDirectory, scan: Scan, selection: Selection) -> Textures:
    located, further = locate_in_scan(run, scan, selection), _read_further(scan)
    row = pc.index_in(located["task_id"], further["task_id"])
    further = further.drop_columns(["task_id"]).take(row)
    for name in further.column_names:
        located = located.append_column(name, further[name])
    order = [("category", "ascending"), ("task_id", "ascending")]
    named = _filled(located["category"], UNCATEGORISED)
    classes = dict.fromkeys([*classes_in_scan(scan), *named])
    return Textures(run, selection, located.sort_by(order).combine_chunks(), tuple(classes))


def _read_further(scan: Scan) -> pa.Table:
    """Columns of all rows that locating them does not read."""
    carried = [name for name in CARRIED if name in scan.schema.names]
    return read_rows(scan, scan.winners, ["task_id", "attempts", *carried, *MADE_BY, *MEASURES])


def _filled(column: pa.ChunkedArray, value: str) -> list[str]:
    values: Sequence[str] = pc.fill_null(column, value).to_pylist()
    return list(values)
