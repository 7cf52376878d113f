"""Textures in the making, kept in `checkpoints/` so that a preempted task goes on where it stopped.

One safetensors file per task, with the image as its only tensor and all else as JSON in its
metadata: reading it can run no code. It is removed when the task's row is committed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.rundir import RunDirectory, atomic_path
from pipeline.storage import AnyPath, local_copy
from texsynth import CurvePoint, TaskCheckpoint
from texsynth.tasks import validate_checkpoint

KEY = "texsynth_checkpoint"
IDENTITY = (
    *("task_id", "seed", "exemplar_sha256", "crop_left", "crop_top", "crop_side"),
    *("blend_exemplar_sha256", "blend_weight"),
)
"""What must be as it was for a texture in the making to go on."""

logger = logging.getLogger(__name__)


def checkpoint_path(run: RunDirectory, task_id: str) -> AnyPath:
    """Where the checkpoint of a task lies; the name is a digest, for ids can be long."""
    digest = hashlib.sha256(task_id.encode()).hexdigest()[:16]
    return run.checkpoints / f"{digest}.safetensors"


def save_checkpoint(run: RunDirectory, task: Mapping[str, Any], checkpoint: TaskCheckpoint) -> None:
    """Write the checkpoint of a task, whole or not at all, in place of an earlier one.

    Args:
        run: The run directory.
        task: As prepared.
        checkpoint: Of its texture.

    Raises:
        OSError: The disk is full, or the like; an earlier checkpoint stays.
    """
    values = {
        f.name: getattr(checkpoint, f.name)
        for f in dataclasses.fields(checkpoint)
        if f.name not in ("image", "index")
    }
    text = json.dumps({name: task.get(name) for name in IDENTITY} | values)
    with atomic_path(checkpoint_path(run, task["task_id"])) as temporary:
        try:
            save_file({"image": checkpoint.image.contiguous()}, temporary, {KEY: text})
        except SafetensorError as error:
            raise OSError(f"{temporary}: cannot be written: {error}") from error


def load_checkpoint(
    run: RunDirectory, task: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
) -> TaskCheckpoint | None:
    """The checkpoint of a task; None where there is none of this seed and exemplar.

    A file that is not understood is named in a warning and passed over: the task begins anew.

    Args:
        run: The run directory.
        task: As prepared; under another seed, or of a source that has changed, it begins anew.
        sizes: (height, width) of every level, px, from coarse to fine.
    """
    path = checkpoint_path(run, task["task_id"])
    try:
        with local_copy(path) as local, safe_open(local, "pt") as file:
            values = json.loads(file.metadata()[KEY])
            if [values.pop(name, None) for name in IDENTITY] != [
                task.get(name) for name in IDENTITY
            ]:
                return None
            checkpoint = _restore(values, file.get_tensor("image"))
        validate_checkpoint(checkpoint, sizes, f"checkpoint {str(path)!r}")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s: no checkpoint, the task begins anew: %r", path, error)
        return None
    return checkpoint


def remove_checkpoint(run: RunDirectory, task_id: str) -> None:
    """Remove the checkpoint of a task, if there is one."""
    checkpoint_path(run, task_id).unlink(missing_ok=True)


def _restore(values: dict[str, Any], image: Any) -> TaskCheckpoint:
    values["curve"] = tuple(CurvePoint(*point) for point in values["curve"])
    values["readings"] = tuple((int(spent), float(best)) for spent, best in values["readings"])
    values["resumed_at"] = tuple(values["resumed_at"])
    return TaskCheckpoint(index=0, image=image, **values)
