"""Tasks side by side on one device, at one size: admit, advance, see which ended, refill.

A lane whose task has ended is refilled in place, or dropped when nothing waits.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from texsynth.config import SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.images import resize
from texsynth.lbfgs import LBFGSState, lbfgs_init, lbfgs_replace, lbfgs_select, lbfgs_step
from texsynth.objective import TextureObjective

StopReason = Literal["plateau", "budget", "time_limit", "diverged"]

READ_INTERVAL = 10
"""Evaluations of a lane between two looks at its loss; the device is waited for only then."""
CURVE_POINTS = 64
"""Points that a loss curve keeps at most."""


class CurvePoint(NamedTuple):
    """One point of a loss curve.

    Args:
        evaluations: spent so far, in evaluations at full size.
        loss: of the objective minimised at that moment.
        side: shorter side of the level, px; losses of different sides are not compared.
    """

    evaluations: float
    loss: float
    side: int


@dataclass(eq=False)
class Task:
    """One texture in the making, on its way through the levels.

    Args:
        index: its number among the caller's exemplars.
        exemplar: [3, H, W] at full size.
        image: [3, h, w], of the level before; the start image at first.
        budget: evaluations at full size that may be spent in all.
        spent: evaluations at full size spent so far.
        seconds: wall-clock time on a lane so far, which the lanes beside it shared.
        resumed_at_s: `seconds` when it last went on; the time limit counts from there.
    """

    index: int
    exemplar: Tensor
    image: Tensor
    budget: float
    spent: float = 0.0
    iterations: int = 0
    seconds: float = 0.0
    resumed_at_s: float = 0.0
    objective_loss: float = math.inf
    objective_taps: tuple[str, ...] = ()
    stop_reason: StopReason | None = None
    curve: list[CurvePoint] = field(default_factory=list)

    def record(self, loss: float, side: int) -> None:
        """Add a point to the curve; at too many, drop one where they lie closest, never an end."""
        self.curve.append(CurvePoint(self.spent, loss, side))
        if len(self.curve) > CURVE_POINTS:
            spent = [point.evaluations for point in self.curve]
            gaps = [after - before for before, after in zip(spent, spent[2:], strict=False)]
            del self.curve[1 + gaps.index(min(gaps))]


@dataclass(eq=False)
class _Lane:
    """A task at this level, how many evaluations it may spend here, and what was seen of it."""

    task: Task
    limit: int
    evaluations: int = 0
    iterations: int = 0
    best: list[tuple[int, float]] = field(default_factory=list)
    ended: bool = False

    @property
    def next_reading(self) -> int:
        """Evaluations at which it is looked at next: its own, so that no neighbour moves them."""
        if self.evaluations == 0:
            return 1
        return min(self.limit, (self.evaluations // READ_INTERVAL + 1) * READ_INTERVAL)


class LaneBatch:
    """The lanes of one level.

    Args:
        network: shared by all lanes.
        config: of the synthesis.
        size: (height, width) of the level, px.
        full_size: (height, width) of the finest level, px.
        finer_cost: one evaluation at each finer level, in evaluations at full size.
    """

    def __init__(
        self,
        network: TextureNetwork,
        config: SynthesisConfig,
        size: tuple[int, int],
        *,
        full_size: tuple[int, int],
        finer_cost: float = 0.0,
    ) -> None:
        self._network = network
        self._config = config
        self._size = size
        self._cost = math.prod(size) / math.prod(full_size)
        self._finer_cost = finer_cost
        self._lanes: list[_Lane] = []
        self._objective: TextureObjective | None = None
        self._state: LBFGSState | None = None

    @property
    def running(self) -> list[Task]:
        """Tasks that have not ended."""
        return [lane.task for lane in self._lanes if not lane.ended]

    def admit(self, tasks: Sequence[Task]) -> None:
        """Put tasks onto an empty batch, or onto lanes whose tasks have ended.

        Each starts from its own image, resized to this level, and gets as many evaluations here
        as at each finer level.

        Raises:
            ValueError: if there are more tasks than free lanes.
        """
        device = self._network.device
        exemplars = torch.stack([task.exemplar for task in tasks]).to(device)
        images = torch.stack([task.image for task in tasks]).to(device)
        exemplars = resize(exemplars, *self._size)
        with exact_arithmetic():
            objective = TextureObjective(self._network, exemplars, self._config)
        state = lbfgs_init(resize(images, *self._size), self._config.optimizer)
        lanes = [_Lane(task, self._share(task.budget - task.spent)) for task in tasks]
        for task in tasks:
            task.objective_taps = objective.taps
        if self._objective is None or self._state is None:
            self._objective, self._state, self._lanes = objective, state, lanes
            return
        free = [number for number, lane in enumerate(self._lanes) if lane.ended]
        if len(free) < len(lanes):
            raise ValueError(f"{len(lanes)} tasks for {len(free)} free lanes")
        free = free[: len(lanes)]
        chosen = torch.tensor(free, device=device)
        self._objective.replace(chosen, objective)
        self._state = lbfgs_replace(self._state, chosen, state)
        for number, lane in zip(free, lanes, strict=True):
            self._lanes[number] = lane

    def compact(self) -> None:
        """Drop the lanes whose tasks have ended."""
        kept = [number for number, lane in enumerate(self._lanes) if not lane.ended]
        if len(kept) == len(self._lanes) or self._objective is None or self._state is None:
            return
        self._lanes = [self._lanes[number] for number in kept]
        if not kept:
            self._objective = self._state = None
            return
        chosen = torch.tensor(kept, device=self._network.device)
        self._objective = self._objective.select(chosen)
        self._state = lbfgs_select(self._state, chosen)

    def resume(self, evaluations: float) -> None:
        """Let all tasks go on from where they stopped, with their history.

        Args:
            evaluations: to be spent from here on, at full size.
        """
        for lane in self._lanes:
            lane.limit = lane.evaluations + self._share(evaluations)
            lane.task.budget = lane.task.spent + evaluations
            lane.task.resumed_at_s = lane.task.seconds
            lane.best.clear()
            lane.ended = False

    def advance(self) -> list[Task]:
        """Evaluate all lanes until some lane is due, then look at the losses of those that are.

        Returns:
            The tasks that ended with this advance: image, loss, curve and stop reason are set.
        """
        running = [lane for lane in self._lanes if not lane.ended]
        if not running or self._objective is None or self._state is None:
            return []
        count = min(lane.next_reading - lane.evaluations for lane in running)
        begun = time.monotonic()
        with exact_arithmetic():
            for _ in range(count):
                self._state = lbfgs_step(
                    self._state, self._objective.value_and_gradient, self._config.optimizer
                )
        readings = _read(self._state)
        seconds = time.monotonic() - begun
        ended = []
        for number, (lane, reading) in enumerate(zip(self._lanes, readings, strict=True)):
            if lane.ended:
                continue
            due = lane.evaluations + count == lane.next_reading
            self._account(lane, reading, count, seconds)
            stop_reason = self._look_at(lane, reading) if due else None
            if stop_reason is not None:
                self._end(lane, number, reading, stop_reason)
                ended.append(lane.task)
        return ended

    def _share(self, budget: float) -> int:
        """Evaluations at this level if every finer one gets as many."""
        return max(1, math.floor(budget / (self._cost + self._finer_cost) + 1e-6))

    def _account(self, lane: _Lane, reading: _Reading, count: int, seconds: float) -> None:
        task = lane.task
        task.iterations += reading.iterations - lane.iterations
        task.spent += count * self._cost
        task.seconds += seconds
        lane.iterations = reading.iterations
        lane.evaluations += count

    def _look_at(self, lane: _Lane, reading: _Reading) -> StopReason | None:
        """Put a due reading on record; say why the lane ends with it, if it does."""
        lane.task.record(reading.value, min(self._size))
        lane.best.append((lane.evaluations, reading.best_value))
        limit_s = self._config.time_limit_s
        if reading.diverged:
            return "diverged"
        if limit_s is not None and lane.task.seconds - lane.task.resumed_at_s >= limit_s:
            return "time_limit"
        if lane.evaluations >= lane.limit:
            return "budget"
        return "plateau" if reading.stalled or self._is_on_plateau(lane) else None

    def _is_on_plateau(self, lane: _Lane) -> bool:
        now, lowest = lane.best[-1]
        since = now - self._config.plateau_evaluations
        before = [best for evaluations, best in lane.best if evaluations <= since]
        return bool(before) and before[-1] - lowest < self._config.plateau_tolerance * lowest

    def _end(self, lane: _Lane, number: int, reading: _Reading, stop_reason: StopReason) -> None:
        """Hand the image to the task; it stays on the device."""
        if self._state is None:
            return
        best = self._config.keep_best
        image = self._state.best_point if best else self._state.point
        lane.ended = True
        lane.task.image = image[number].detach().clone()
        lane.task.objective_loss = reading.best_value if best else reading.value
        lane.task.stop_reason = stop_reason


class _Reading(NamedTuple):
    """What the host sees of one lane."""

    value: float
    best_value: float
    iterations: int
    stalled: bool
    diverged: bool


def _read(state: LBFGSState) -> list[_Reading]:
    """One transfer for all lanes; a lane in recovery is back at its best point."""
    value = torch.where(state.value.isinf(), state.best_value, state.value)
    columns = (value, state.best_value, state.iterations, state.stalled, state.diverged)
    rows = torch.stack([column.double() for column in columns], dim=1).tolist()
    return [_Reading(row[0], row[1], int(row[2]), bool(row[3]), bool(row[4])) for row in rows]


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """float32 as such, not TF32, and deterministic convolutions, while the context lasts."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
