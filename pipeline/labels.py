"""Class labels of the textures of a run: which classes there are, and which each texture has.

A hard label is the category of the exemplar, which has at least half of the weight in a blend; a
soft label has the weights of both parents, as those of `torchvision.transforms.v2.MixUp` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from pipeline.committed import Scan, read_from_scan
from pipeline.rundir import RunDirectory
from pipeline.selection import SelectionError


def list_classes(run: RunDirectory) -> list[str]:
    """The categories of all rows of a run, failed ones too, sorted as `torchvision` sorts them."""
    return read_from_scan(run, classes_in_scan)


def classes_in_scan(scan: Scan) -> list[str]:
    """As `list_classes`."""
    names = scan.winners["category"].unique().to_pylist()
    return sorted(name for name in names if name is not None)


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
    return _find_classes(rows["category"], classes)


class SoftLabels:
    """The weights of the classes in each texture, float32 [classes] that sum to 1.

    Args:
        rows: Of `pipeline.selection.LOCATED`.
        classes: In the order of their indices.

    Raises:
        SelectionError: The category of an exemplar or a partner is none of the classes.
    """

    def __init__(self, rows: pa.Table, classes: Sequence[str]) -> None:
        is_blend = pc.is_valid(rows["blend_weight"])
        partner = pc.if_else(is_blend, rows["blend_category"], rows["category"])
        self._first = compute_labels(rows, classes)
        self._second = _find_classes(partner, classes)
        self._weight = pc.fill_null(rows["blend_weight"], 0).to_numpy()
        self._classes = len(classes)

    def __getitem__(self, position: int) -> torch.Tensor:
        weight = float(self._weight[position])
        label = self.of_class(int(self._first[position])) * (1 - weight)
        label[self._second[position]] += weight
        return label

    def of_class(self, index: int) -> torch.Tensor:
        """That of an image of one class."""
        label = torch.zeros(self._classes)
        label[index] = 1
        return label


def _find_classes(categories: pa.ChunkedArray, classes: Sequence[str]) -> NDArray[np.int64]:
    indices = pc.index_in(categories.combine_chunks(), pa.array(classes, pa.string()))
    if indices.null_count:
        unknown = categories.filter(pc.is_null(indices)).unique().to_pylist()
        names = sorted(map(str, unknown))
        raise SelectionError(f"categories {names} are none of the {len(classes)} classes {classes}")
    labels: NDArray[np.int64] = indices.to_numpy().astype(np.int64)
    return labels
