"""What the host knows of one lane: its task, its limits, and what the device last told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from texsynth.config import SynthesisConfig
from texsynth.lbfgs import LBFGSState
from texsynth.tasks import StopReason, Task

READ_INTERVAL = 10
"""Evaluations of a lane between two looks at its loss; the device is waited for only then."""
SLOW_FALL = 0.15
"""Share of the loss under which its fall over `plateau_evaluations` is slow: a weighted loss then
nears its lowest value, which is not the plain one's unless both are 0 (measured:
benchmarks/convergence, --evaluations 600)."""


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
        slow: whether they are to count alike from its next evaluation on.
        stage_evaluations: between two times that pixels settle; 0 where none do.
        stage: times that they have.
        iterations: that the task was told of.
        ended: whether it waits for a successor.
        reason: to stop, which it had as its pixels began to settle.
    """

    task: Task
    limit: int
    weighted: bool = False
    slow: bool = False
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

    def look_at(self, reading: Reading, config: SynthesisConfig, side: int) -> StopReason | None:
        """Put a due reading on record; say why the lane ends with it, if it does.

        Args:
            reading: of this lane.
            config: its rules to stop.
            side: of the level, px.
        """
        task = self.task
        task.record(reading.value, side)
        self._remember(reading.best_value, config.plateau_evaluations)
        if reading.diverged:
            return "diverged"
        limit_s = config.time_limit_s
        if limit_s is not None and task.seconds - task.limit_from_s >= limit_s:
            return "time_limit"
        if task.level_evaluations >= self.limit:
            return self.reason or "budget"
        if self.reason is not None:
            return None
        stalled = reading.stalled or self._falls_less(config.plateau_tolerance, config)
        # Not at once: whoever stops the work now finds it as it is.
        self.slow = self.weighted and (stalled or self._falls_less(SLOW_FALL, config))
        return "plateau" if stalled and not self.slow else None

    def _remember(self, lowest: float, evaluations: int) -> None:
        """Add a reading, and drop those further back than so many evaluations."""
        readings, now = self.task.readings, self.task.level_evaluations
        if self.reason is not None:
            # Pixels settle: what is minimised is another function than before.
            readings.clear()
        if readings:
            lowest = min(lowest, readings[-1][1])
        readings.append((now, lowest))
        while len(readings) > 1 and readings[1][0] <= now - evaluations:
            del readings[0]

    def _falls_less(self, share: float, config: SynthesisConfig) -> bool:
        """Whether the loss fell by less than a share of itself over `plateau_evaluations`."""
        (first, before), (now, lowest) = self.task.readings[0], self.task.readings[-1]
        return now - first >= config.plateau_evaluations and before - lowest < share * lowest
