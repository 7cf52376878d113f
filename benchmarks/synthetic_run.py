"""A finished run directory of any number of rows, with random numbers under the real schema.

Written by the code that commits and finalizes real rows. Columns are filled by their type, so that
ones that are added later are there too; what queries group, pair and order by is filled by name.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.columns import LOSS_CURVE
from pipeline.finalize import finalize
from pipeline.rundir import RunDirectory
from pipeline.schema import compute_flags, row_schema
from pipeline.shards import ROW_GROUP_ROWS, commit_rows
from pipeline.tasks import expand_tasks
from texsynth.copies import LAYOUT_SIDE

CATEGORIES = 47
"""As many as DTD has."""
CURVE_POINTS = 64
ROWS_PER_SHARD = 1024
TAPS = ["relu1_1", "pool1", "pool2", "pool3", "pool4", "pool5"]
FAILED_SHARE = 0.02
COMPUTED = ("flag_rules", "tries")
"""Null in a row as it is made: given by `compute_flags`, and by further tries."""
BEGUN = np.datetime64("2026-01-01T00:00:00", "ms")


@dataclass(frozen=True, kw_only=True)
class SyntheticRun:
    """What a run is to hold.

    Attributes:
        rows: Number of tasks; a multiple of `variations`.
        variations: Of each exemplar.
        size_px: Side of the images.
        images: How many rows have an image, at least: a noise PNG, which is about as large as a
            texture's. They fill the first row group of as many files as are needed.
    """

    rows: int
    variations: int = 4
    size_px: int = 256
    images: int = 0

    def write(self, path: Path) -> RunDirectory:
        """Make the directory, which must not exist."""
        run = RunDirectory(path)
        path.mkdir(parents=True)
        run.create()
        tasks = self.tasks()
        generator = np.random.default_rng(0)
        for start in range(0, self.rows, ROWS_PER_SHARD):
            part = tasks.slice(start, ROWS_PER_SHARD)
            number = start // ROWS_PER_SHARD
            images = min(ROW_GROUP_ROWS, max(self.images - number * ROW_GROUP_ROWS, 0))
            commit_rows(run, self.make_rows(part, min(images, len(part)), generator))
        finalize(run, tasks["task_id"], rows_per_file=ROWS_PER_SHARD)
        return run

    def tasks(self) -> pa.Table:
        """Sorted as a finalize sorts them, so that it reads each shard once.

        Ids of every category come from the whole range, so that an id does not tell its category.
        """
        count = self.rows // self.variations
        category = np.arange(count) * CATEGORIES // count
        within = np.arange(count) - np.searchsorted(category, category)
        width = len(str(self.rows))
        ids = [f"x{number:0{width}d}" for number in within * CATEGORIES + category]
        manifest = {"exemplar_id": ids, "path": [f"{name}.jpg" for name in ids]}
        table = pa.table(manifest | {"category": [f"c{number:02d}" for number in category]})
        return expand_tasks(table, crops=1, variations=self.variations, seed=0)

    def make_rows(self, tasks: pa.Table, images: int, generator: np.random.Generator) -> pa.Table:
        """Rows of some tasks; the first `images` of them have one."""
        failed = generator.random(len(tasks)) < FAILED_SHARE
        failed[:images] = False
        pngs = [make_noise_png(self.size_px, generator) for _ in range(images)]
        known = {name: tasks[name].combine_chunks() for name in tasks.column_names}
        known |= _named_values(failed, generator)
        known["image"] = pa.array(
            [{"bytes": png, "path": "x.png"} for png in pngs] + [None] * (len(tasks) - images),
            row_schema().field("image").type,
        )
        arrays = []
        for field in row_schema():
            if field.name in known:
                values = known[field.name].cast(field.type)
            elif field.name in COMPUTED:
                values = pa.nulls(len(tasks), field.type)
            else:
                values = _random_values(field.type, failed, generator)
            arrays.append(values)
        return compute_flags(pa.Table.from_arrays(arrays, schema=row_schema()))


def make_noise_png(size_px: int, generator: np.random.Generator) -> bytes:
    """White noise, which PNG cannot compress: the largest that an image of this size is."""
    file = io.BytesIO()
    pixels = generator.integers(0, 256, (size_px, size_px, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _named_values(failed: Any, generator: np.random.Generator) -> dict[str, pa.Array]:
    """What queries group, pair or order by."""
    count = len(failed)
    loss = generator.lognormal(7, 1.5, count)
    reasons = np.array(["plateau", "budget"])[generator.integers(0, 2, count)]
    return {
        "attempts": pa.array(np.ones(count, np.int32)),
        "status": pa.array(np.where(failed, "failed", "ok")),
        "error_type": pa.array(np.full(count, "ImageError"), mask=~failed),
        "error": pa.array(np.full(count, "image 'x' is empty\nwhere"), mask=~failed),
        "float_loss": pa.array(loss, mask=failed),
        "delivered_loss": pa.array(loss * generator.lognormal(0.01, 0.01, count), mask=failed),
        "loss_threshold": pa.array(np.full(count, 1500.0), mask=failed),
        "stop_reason": pa.array(reasons, mask=failed),
        "height": pa.array(np.full(count, 256, np.int32), mask=failed),
        "width": pa.array(np.full(count, 256, np.int32), mask=failed),
        "taps": pa.array([None if bad else TAPS for bad in failed], pa.list_(pa.string())),
    }


def _random_values(kind: pa.DataType, absent: Any, generator: np.random.Generator) -> pa.Array:
    """Values of a type; null where `absent` says so."""
    count = len(absent)
    if pa.types.is_floating(kind):
        return pa.array(generator.random(count), kind, mask=absent)
    if pa.types.is_integer(kind):
        return pa.array(generator.integers(0, 1000, count), kind, mask=absent)
    if pa.types.is_boolean(kind):
        return pa.array(generator.random(count) < 0.1, mask=absent)
    if pa.types.is_binary(kind):
        layouts = generator.integers(-127, 128, (count, LAYOUT_SIDE**2), np.int8)
        return pa.array([row.tobytes() for row in layouts], kind, mask=absent)
    if pa.types.is_string(kind):
        return pa.array(np.array(["a", "b", "c"])[generator.integers(0, 3, count)])
    if pa.types.is_timestamp(kind):
        return pa.array(BEGUN + np.arange(count))
    if pa.types.is_struct(kind):
        arrays = [_random_values(field.type, absent, generator) for field in kind]
        return pa.StructArray.from_arrays(arrays, fields=list(kind))
    if pa.types.is_list(kind):
        length = CURVE_POINTS if kind == LOSS_CURVE else len(TAPS)
        none_absent = np.zeros(count * length, bool)
        values = _random_values(kind.value_type, none_absent, generator)
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
        return pa.ListArray.from_arrays(offsets, values, mask=pa.array(absent))
    raise TypeError(f"no random values of type {kind}")
