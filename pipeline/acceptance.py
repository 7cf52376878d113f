"""Which textures of a run are accepted, also before a finalize has compared siblings.

Whether a texture repeats an earlier one of its exemplar is known only when all that are committed
are looked at (`pipeline.siblings`). A finalize stores it; until then it is computed here, so that a
run at work gives the textures that it would give if it were finalized at this moment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.committed import Scan, read_rows
from pipeline.rundir import RunDirectory
from pipeline.schema import PICTURES, compute_flags
from pipeline.siblings import compute_sibling_distances

BATCH_ROWS = 16_384
"""Rows whose numbers are in memory at a time: 30 MB."""


def read_accepted(run: RunDirectory, scan: Scan) -> pa.Array:
    """Of each winner, whether it is accepted, as a finalize of what is committed would say.

    Args:
        run: The run directory.
        scan: Of it. If every winner lies in `textures/`, what is stored there is right; else
            the layouts of all are compared.

    Raises:
        FileNotFoundError, UnreadableFileError: As `read_rows`.
    """
    stored = read_rows(scan, scan.winners, ["accepted", "sibling_distance"])
    accepted = pc.fill_null(stored["accepted"], False).to_numpy().copy()
    distances = stored["sibling_distance"].to_numpy()
    if not _is_finalized(run, scan):
        found = compute_sibling_distances(scan).to_numpy(zero_copy_only=False)
        same = (found == distances) | (np.isnan(found) & np.isnan(distances))
        changed = np.flatnonzero(~same)
        for start in range(0, len(changed), BATCH_ROWS):
            places = changed[start : start + BATCH_ROWS]
            accepted[places] = _accept(scan, places, found[places])
    return pa.array(accepted)


def _is_finalized(run: RunDirectory, scan: Scan) -> bool:
    files = scan.winners["file"].unique().to_pylist()
    return all(scan.files[file].parent == run.textures for file in files)


def _accept(scan: Scan, places: NDArray[np.int64], distances: Any) -> Any:
    """Whether some winners are accepted with these distances to their siblings."""
    names = [name for name in scan.schema.names if name not in PICTURES]
    table = read_rows(scan, scan.winners.take(pa.array(places)), names)
    place = table.schema.get_field_index("sibling_distance")
    column = pa.array(distances, pa.float64(), from_pandas=True)
    flagged = compute_flags(table.set_column(place, table.schema.field(place), column))
    return pc.fill_null(flagged["accepted"], False).to_numpy()
