"""How near each texture is to an earlier one of the same exemplar and crop, from stored layouts.

A row has the layout of its texture (`texsynth.copies.luminance_layout`), so that rows that were
made by different actors, on different days, can be compared without decoding their images. Of two
that are nearly the same the one with the lower variation is the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import Scan, read_rows
from texsynth.copies import LAYOUT_SIDE

KEYS = ("exemplar_id", "crop", "variation", "status", "blend_exemplar_id")
SIBLINGS = ("exemplar_id", "crop", "is_blend")
BATCH_ROWS = 16_384
"""Layouts read at once, unless one exemplar has more: 17 MB, held three times at most."""
MATRIX_ROWS = 1024
"""Textures of one exemplar that are held against all others at once."""


def compute_sibling_distances(scan: Scan) -> pa.Array:
    """1 - the correlation of each texture's layout with the most similar of its earlier siblings.

    Earlier siblings are the `ok` rows of the same exemplar and crop with a lower variation, those
    of a blend the blends among them. The
    first of them is compared with none, so that it stays when all others turn out to be the same.

    Args:
        scan: Whose winners are looked at; the layouts of whole exemplars are in memory at a time.

    Returns:
        For each winner a number from 0, the same, to 2; null where there is nothing to compare.

    Raises:
        FileNotFoundError, UnreadableFileError: As `read_rows`.
    """
    keys = read_rows(scan, scan.winners, KEYS)
    keys = keys.append_column("is_blend", pc.is_valid(keys["blend_exemplar_id"]))
    keys = keys.append_column("place", pa.array(np.arange(len(keys))))
    keys = keys.filter(pc.equal(keys["status"], "ok"))
    keys = keys.sort_by([(name, "ascending") for name in (*SIBLINGS, "variation")])
    places, starts = keys["place"].to_numpy(), _find_starts(keys)
    distances = np.full(len(scan.winners), np.nan)
    for first, last in _batches(starts):
        part = places[starts[first] : starts[last]]
        table = read_rows(scan, scan.winners.take(pa.array(part)), ["layout"])
        known, layouts = _decode(table["layout"])
        groups = np.searchsorted(starts, np.arange(starts[first], starts[last])[known], "right")
        bounds = [0, *(np.flatnonzero(np.diff(groups)) + 1), len(layouts)]
        for start, stop in pairwise(bounds):
            if stop - start == 1:
                continue
            distances[part[known][start:stop]] = distances_to_earlier(layouts[start:stop])
    return pa.array(distances, from_pandas=True)


def distances_to_earlier(layouts: Any) -> Any:
    """1 - the largest correlation of each layout with those before it, float64 [N].

    Args:
        layouts: int8 [N, L]. One of zeros, of a flat texture, correlates with nothing.

    Returns:
        In [0, 2]; NaN for the first.
    """
    units = layouts.astype(np.float32)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1)
    distances = np.full(len(units), np.nan)
    for start in range(0, len(units), MATRIX_ROWS):
        rows = units[start : start + MATRIX_ROWS]
        correlations = rows @ units[: start + len(rows)].T
        later = np.arange(len(units))[: start + len(rows)] >= np.arange(len(rows))[:, None] + start
        correlations[later] = -np.inf
        distances[start : start + len(rows)] = 1 - correlations.max(1, initial=-np.inf)
    return np.where(np.isinf(distances), np.nan, distances.clip(0, 2))


def _find_starts(keys: pa.Table) -> Any:
    """Where each exemplar and crop begins in sorted rows, and where the last ends."""
    if not len(keys):
        return np.zeros(1, np.int64)
    columns = [keys[name].combine_chunks() for name in SIBLINGS]
    changed = [pc.not_equal(column[1:], column[:-1]).to_numpy(False) for column in columns]
    inner = np.flatnonzero(np.logical_or.reduce(changed)) + 1
    return np.concatenate([[0], inner, [len(keys)]])


def _batches(starts: Any) -> Iterator[tuple[int, int]]:
    """Ranges of exemplars that have BATCH_ROWS rows or fewer together, or one exemplar."""
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + BATCH_ROWS, "right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _decode(column: pa.ChunkedArray) -> tuple[Any, Any]:
    """Which rows have a layout, and these as int8 [N, L]."""
    length = LAYOUT_SIDE**2
    known = pc.fill_null(pc.equal(pc.binary_length(column), length), False)
    data = b"".join(column.filter(known).to_pylist())
    return known.to_numpy(), np.frombuffer(data, np.int8).reshape(-1, length)
