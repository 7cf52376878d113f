"""Class labels of the textures of a run: which classes there are, and which each texture has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.committed import read_from_scan
from pipeline.rundir import RunDirectory
from pipeline.selection import SelectionError


def list_classes(run: RunDirectory) -> list[str]:
    """The categories of all rows of a run, failed ones too, sorted as `torchvision` sorts them."""
    names = read_from_scan(run, lambda scan: scan.winners["category"].unique())
    return sorted(name for name in names.to_pylist() if name is not None)


def choose_classes(run: RunDirectory, classes: Sequence[str] | None, real: Any = None) -> list[str]:
    """The classes in order: those given, else those of the real data set, else those of the run.

    Raises:
        ValueError: The real data set does not name its classes.
    """
    if classes is not None:
        return list(classes)
    if real is None:
        return list_classes(run)
    if not hasattr(real, "classes"):
        raise ValueError(f"{type(real).__name__} has no attribute `classes`: give them, in order")
    return list(real.classes)


def compute_labels(rows: pa.Table, classes: Sequence[str]) -> NDArray[np.int64]:
    """The class index of each row, [N].

    Raises:
        SelectionError: A category is none of the classes.
    """
    indices = pc.index_in(rows["category"].combine_chunks(), pa.array(classes, pa.string()))
    if indices.null_count:
        unknown = rows["category"].filter(pc.is_null(indices)).unique().to_pylist()
        names = sorted(map(str, unknown))
        raise SelectionError(f"categories {names} are none of the {len(classes)} classes {classes}")
    labels: NDArray[np.int64] = indices.to_numpy().astype(np.int64)
    return labels
