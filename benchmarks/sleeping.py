"""Stand-ins for what costs a device: a block is prepared by adding pixels, and done by sleeping.

Imports no torch, so that a machine without GPUs can hold many of these actors.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

SLEEP_SECONDS = 0.02
"""Of a block: short, so that the driver is what limits."""


def prepare_sleeping(
    tasks: pa.Table, source: int, run: object = None, *, watched: bool = False
) -> pa.Table:
    """The tasks with random pixels.

    Args:
        tasks: A block of them.
        source: Side of an exemplar, px.
        run: Not looked at, as `watched`.
        watched: See `pipeline.isolation.prepare_block`.
    """
    data = np.random.default_rng(0).integers(0, 256, (len(tasks), 3 * source**2), np.uint8)
    pixels = [row.tobytes() for row in data]
    return tasks.append_column("pixels", pa.array(pixels, pa.binary()))


class SleepingActor:
    """Takes as long as SLEEP_SECONDS for a block, and gives what a real actor does."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._blocks = 0

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """One row of `pipeline.actor.SUMMARY` for each task."""
        time.sleep(SLEEP_SECONDS)
        self._blocks += 1
        count = len(tasks)
        block = {
            "actor": "sleeping",
            "tasks": count,
            "begun_at": "2026-01-01T00:00:00.000+00:00",
            "seconds": SLEEP_SECONDS,
            "synthesis_seconds": SLEEP_SECONDS,
        }
        return pa.table(
            {
                "task_id": tasks["task_id"],
                "status": pa.repeat("ok", count),
                "seconds": pa.repeat(SLEEP_SECONDS, count),
                "block": pa.array([block] * count),
            }
        )
