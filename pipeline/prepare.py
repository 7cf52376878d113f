"""Tasks with their exemplars: read, checked, cropped and resized on CPUs, close to their use.

A source that cannot be used is no exception but a task with an `error_type`: it becomes a failed
row.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.crops import Crop, prepare_crop
from pipeline.reading import read_image_bytes
from texsynth.decoding import ImageError

PREPARED = pa.schema(
    [
        ("pixels", pa.binary()),
        ("exemplar_sha256", pa.string()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("crop_left", pa.int32()),
        ("crop_top", pa.int32()),
        ("crop_side", pa.int32()),
        ("upscaled", pa.bool_()),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]
)
"""Columns that `prepare_tasks` adds."""


@dataclass(frozen=True)
class ExemplarSource:
    """Where exemplars come from and how they are cut.

    Args:
        root: folder or URI that paths are relative to.
        config: size, crop mode, seed and the largest source.
    """

    root: str
    config: RunConfig


def prepare_tasks(tasks: pa.Table, source: ExemplarSource) -> pa.Table:
    """Add the columns of PREPARED; `pixels` is size x size x 3 bytes, or null beside an error.

    Neighbouring tasks of one exemplar and crop are read once. An error that has no name here is
    recorded with its traceback: no image stops the job.
    """
    columns: dict[str, list[Any]] = {name: [] for name in PREPARED.names}
    key, prepared = None, {}
    for task in tasks.to_pylist():
        if key != (task["exemplar_id"], task["crop"]):
            key, prepared = (task["exemplar_id"], task["crop"]), _prepare(task, source)
        for name, values in columns.items():
            values.append(prepared.get(name))
    for field in PREPARED:
        tasks = tasks.append_column(field, pa.array(columns[field.name], field.type))
    return tasks


def _prepare(task: dict[str, Any], source: ExemplarSource) -> dict[str, Any]:
    where = f"image {task['path']!r} (exemplar {task['exemplar_id']!r})"
    try:
        crop = _load_crop(task, source)
    except (ImageError, OSError, MemoryError) as error:
        return {"error_type": type(error).__name__, "error": f"{where}: {error}"}
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        return {"error_type": type(error).__name__, "error": f"{where}: {trace}"}
    return {
        "pixels": crop.pixels.tobytes(),
        "exemplar_sha256": crop.sha256,
        "source_width": crop.source_width,
        "source_height": crop.source_height,
        "crop_left": crop.left,
        "crop_top": crop.top,
        "crop_side": crop.side,
        "upscaled": crop.upscaled,
    }


def _load_crop(task: dict[str, Any], source: ExemplarSource) -> Crop:
    config = source.config
    data = read_image_bytes(
        task["path"],
        source.root,
        allow_outside_root=config.allow_outside_root,
        max_pixels=config.max_pixels,
    )
    crop = prepare_crop(
        data,
        size=config.size,
        mode=config.crop,
        index=task["crop"],
        seed=config.seed,
        max_pixels=config.max_pixels,
    )
    claimed = task.get("sha256")
    if claimed and claimed != crop.sha256:
        raise ImageError(f"sha256 is {crop.sha256}, the manifest says {claimed}")
    return crop
