"""Tasks with their exemplars: read, checked, cropped and resized on CPUs, close to their use.

A source that cannot be used is no exception but a task with an `error_type`: it becomes a failed
row.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
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
        ("blend_pixels", pa.binary()),
        ("blend_exemplar_sha256", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]
)
"""Columns that `prepare_tasks` adds; of the file of a partner, a task may bring a checksum."""


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

    `blend_pixels` are the partner's, of the same crop number, in a blend. Neighbouring tasks of one
    exemplar and crop are read once. An error that has no name here is
    recorded with its traceback: no image stops the job.
    """
    columns: dict[str, list[Any]] = {name: [] for name in PREPARED.names}
    key, prepared = None, {}
    for task in tasks.to_pylist():
        if key != (task["exemplar_id"], task["crop"]):
            key, prepared = (task["exemplar_id"], task["crop"]), _prepare(task, source)
        both = prepared
        if task.get("blend_exemplar_id") is not None and "error" not in prepared:
            both = prepared | _prepare_partner(task, source)
        for name, values in columns.items():
            values.append(both.get(name))
    return with_prepared(tasks, columns)


def with_prepared(tasks: pa.Table, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """The tasks with these values in the columns of PREPARED."""
    for field in PREPARED:
        column = pa.array(columns[field.name], field.type)
        place = tasks.schema.get_field_index(field.name)
        if place < 0:
            tasks = tasks.append_column(field, column)
        else:
            tasks = tasks.set_column(place, field, column)
    return tasks


def load_partner(task: Mapping[str, Any], source: ExemplarSource) -> Crop:
    """The second exemplar of a blend.

    Raises:
        ImageError: its file cannot be read or decoded, or has another checksum than the task says.
    """
    claimed = task["blend_exemplar_sha256"]
    return _load_crop(task["blend_path"], task["crop"], claimed, source)


def _prepare(task: dict[str, Any], source: ExemplarSource) -> dict[str, Any]:
    def load() -> dict[str, Any]:
        crop = _load_crop(task["path"], task["crop"], task.get("sha256"), source)
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

    return _named_errors(f"image {task['path']!r} (exemplar {task['exemplar_id']!r})", load)


def _prepare_partner(task: dict[str, Any], source: ExemplarSource) -> dict[str, Any]:
    def load() -> dict[str, Any]:
        crop = load_partner(task, source)
        return {"blend_pixels": crop.pixels.tobytes(), "blend_exemplar_sha256": crop.sha256}

    where = f"image {task['blend_path']!r} (partner {task['blend_exemplar_id']!r})"
    return _named_errors(where, load)


def _named_errors(where: str, load: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was loaded, or the error that came up instead."""
    try:
        return load()
    except (ImageError, OSError, MemoryError) as error:
        return {"error_type": type(error).__name__, "error": f"{where}: {error}"}
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        return {"error_type": type(error).__name__, "error": f"{where}: {trace}"}


def _load_crop(path: str, index: int, claimed: str | None, source: ExemplarSource) -> Crop:
    config = source.config
    data = read_image_bytes(
        path,
        source.root,
        allow_outside_root=config.allow_outside_root,
        max_pixels=config.max_pixels,
    )
    crop = prepare_crop(
        data,
        size=config.size,
        mode=config.crop,
        index=index,
        seed=config.seed,
        max_pixels=config.max_pixels,
    )
    if claimed and claimed != crop.sha256:
        raise ImageError(f"sha256 is {crop.sha256}, the manifest says {claimed}")
    return crop
