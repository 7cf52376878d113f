"""Textures beside real images: which may be mixed with them, and how many of each exemplar."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.committed import read_from_scan
from pipeline.manifest.checks import SPLIT_COLUMNS
from pipeline.rundir import RunDirectory
from pipeline.splits import HELD_OUT


class RealDataset(Protocol):
    """A map-style data set of images and class indices, such as `torchvision.datasets.DTD`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


def refuse_unknown_split(run: RunDirectory, rows: pa.Table) -> None:
    """Refuse textures, chosen without a split, whose parents may be held out.

    Args:
        run: Where they are from.
        rows: The textures, of `pipeline.selection.LOCATED`.

    Raises:
        ValueError: They are of several splits, or of val or test; or their split is not known where
            the run's manifest deals its images into splits.
    """
    found = sorted(map(str, rows["split"].unique().drop_null().to_pylist()))
    unassigned = rows["split"].null_count
    what = ", ".join([*found, *(["none"] if unassigned else [])])
    if len(found) + bool(unassigned) == 1 and found and found[0] not in HELD_OUT:
        return
    if not found and not _has_partitions(run):
        return
    raise ValueError(
        f"{run.path}: textures of the splits {what} would be mixed with real images, and those of "
        "val and test parents show what is tested on: expected split='train', and partition= where "
        "the run has several"
    )


def _has_partitions(run: RunDirectory) -> bool:
    """Whether the run's rows carry the splits of partitions."""
    return read_from_scan(run, lambda scan: bool(set(SPLIT_COLUMNS) & set(scan.schema.names)))


def draw_rows(
    rows: pa.Table, real: RealDataset | None, ratio: float, seed: int
) -> NDArray[np.int64]:
    """Numbers of the rows to mix with real items: each exemplar's first, then its second, ...

    Raises:
        ValueError: There are no real items, or not as many rows.
    """
    if real is None:
        raise ValueError(f"ratio {ratio}: expected a real data set to mix with")
    wanted = round(ratio * len(real))
    if not 1 <= wanted <= len(rows):
        got = f"{wanted} textures for {len(real)} real items"
        raise ValueError(f"ratio {ratio}: {got}, expected 1 to {len(rows)}, as many as are chosen")
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    exemplar = rows["exemplar_id"].combine_chunks().dictionary_encode().indices.to_numpy()[shuffled]
    by_exemplar = np.argsort(exemplar, kind="stable")
    first = np.searchsorted(exemplar[by_exemplar], exemplar[by_exemplar])
    rank = np.empty(len(rows), np.int64)
    rank[by_exemplar] = np.arange(len(rows)) - first
    drawn: NDArray[np.int64] = np.sort(shuffled[np.argsort(rank, kind="stable")[:wanted]])
    return drawn
