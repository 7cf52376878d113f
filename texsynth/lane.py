"""What the host knows of one lane: its task, its limits, and what the device last told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from texsynth.lbfgs import LBFGSState
from texsynth.tasks import StopReason, Task

READ_INTERVAL = 10
"""Evaluations of a lane between two looks at its loss; the device is waited for only then."""


class Reading(NamedTuple):
    """What the host sees of one lane."""

    value: float
    best_value: float
    iterations: int
    stalled: bool
    diverged: bool


def read_lanes(state: LBFGSState) -> list[Reading]:
    """One transfer for all lanes; a lane in recovery is back at its best point."""
    value = torch.where(state.value.isinf(), state.best_value, state.value)
    columns = (value, state.best_value, state.iterations, state.stalled, state.diverged)
    rows = torch.stack([column.double() for column in columns], dim=1).tolist()
    return [Reading(row[0], row[1], int(row[2]), bool(row[3]), bool(row[4])) for row in rows]


@dataclass(eq=False)
class Lane:
    """A task at this level.

    Args:
        task: which.
        limit: evaluations at this level at which it ends, or its next pixels settle.
        weighted: whether the parts of its loss count by their sensitivity.
        stage_evaluations: between two times that pixels settle; 0 where none do.
        stage: times that they have.
        iterations: that the task was told of.
        ended: whether it waits for a successor.
        reason: to stop, which it had as its pixels began to settle.
    """

    task: Task
    limit: int
    weighted: bool = False
    stage_evaluations: int = 0
    stage: int = 0
    iterations: int = 0
    ended: bool = False
    reason: StopReason | None = None

    @property
    def next_reading(self) -> int:
        """Evaluations at which it is looked at next: its own, so that no neighbour moves them."""
        evaluations = self.task.level_evaluations
        if evaluations == 0:
            return 1
        return min(self.limit, (evaluations // READ_INTERVAL + 1) * READ_INTERVAL)

    def is_at(self, evaluations: int) -> bool:
        """Whether it has had so many evaluations at this level."""
        return self.task.level_evaluations == evaluations

    def account(self, reading: Reading, seconds: float) -> None:
        """Add to the task what the device has told, and the time."""
        self.task.iterations += reading.iterations - self.iterations
        self.task.seconds += seconds
        self.iterations = reading.iterations
