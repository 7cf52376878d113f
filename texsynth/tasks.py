"""One texture in the making, and the checkpoint from which it goes on in another process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from texsynth.blend import Blend
from texsynth.shapes import Size

StopReason = Literal["plateau", "budget", "time_limit", "diverged"]

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


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskCheckpoint:
    """What a task needs to go on after its process has died.

    The L-BFGS history is not kept: 100 pairs of float32 are 157 MB for a lane at 256 px. A resumed
    task goes on at its level, from its image, with an empty history and the budget it had left.

    Args:
        index: of its exemplar in the synthesis that the checkpoint was taken of.
        level: index of the level that it is at, or is to begin, from the coarsest.
        level_evaluations: spent at that level; 0 between two levels.
        image: float32 [3, h, w] on the CPU, of the level; between two levels, of the one before.
        spent: evaluations at full size spent so far.
        iterations: accepted L-BFGS steps so far.
        seconds: wall-clock time on a lane so far; a time limit goes on counting from it.
        curve: loss curve so far.
        readings: (evaluations, lowest loss) at this level, as far back as the plateau rule looks.
        resumed_at: evaluations at full size at which it went on from earlier checkpoints.
    """

    index: int
    level: int
    level_evaluations: int
    image: Tensor
    spent: float
    iterations: int
    seconds: float
    curve: tuple[CurvePoint, ...]
    readings: tuple[tuple[int, float], ...] = ()
    resumed_at: tuple[float, ...] = ()


@dataclass(eq=False)
class Task:
    """One texture in the making, on its way through the levels.

    Args:
        index: its number among the caller's exemplars.
        exemplar: [3, H', W'] at full size.
        image: [3, h, w], to go on from: of the level before, or of a checkpoint; the start image
            at first.
        budget: evaluations at full size that may be spent in all.
        seed: of what is drawn for it.
        output_size: of the texture; None is the exemplar's.
        blend: of one lane, the second exemplar of a texture that is a blend; None without.
        level: index of the level that it is at, or waits for.
        level_evaluations: spent at that level.
        begun: whether it has been on a lane, of this process.
        spent: evaluations at full size spent so far.
        seconds: wall-clock time on a lane so far, which the lanes beside it shared.
        limit_from_s: `seconds` from which the time limit counts.
        curve: losses that were looked at, thinned.
        readings: (evaluations, lowest loss) at this level, as far back as the plateau rule looks.
        resumed_at: evaluations at full size at which it went on from a checkpoint.
        out_of_range: share of the values of `image` outside [0, 1] before any were clamped.
        clamp: whether its image is one inside [0, 1].
        tileable: whether its image goes on at the opposite edges.
    """

    index: int
    exemplar: Tensor
    image: Tensor
    budget: float
    seed: int = 0
    output_size: Size | None = None
    blend: Blend | None = None
    level: int = 0
    level_evaluations: int = 0
    begun: bool = False
    spent: float = 0.0
    iterations: int = 0
    seconds: float = 0.0
    limit_from_s: float = 0.0
    objective_loss: float = math.inf
    objective_taps: tuple[str, ...] = ()
    out_of_range: float = 0.0
    clamp: bool = False
    tileable: bool = False
    stop_reason: StopReason | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    readings: list[tuple[int, float]] = field(default_factory=list)
    resumed_at: tuple[float, ...] = ()

    @property
    def size(self) -> Size:
        """(height, width) of the texture, px."""
        return self.output_size or (self.exemplar.shape[-2], self.exemplar.shape[-1])

    def begin(self) -> None:
        """Note that it is on a lane, and that it went on from a checkpoint, if it did."""
        if not self.begun and self.spent:
            self.resumed_at += (self.spent,)
        self.begun = True

    def spend(self, cost: float) -> None:
        """Count one evaluation at this level, of so many at full size."""
        self.level_evaluations += 1
        self.spent += cost

    def charge(self, cost: float) -> None:
        """Count what is no evaluation but takes as long as so many at full size."""
        self.spent += cost

    def record(self, loss: float, side: int) -> None:
        """Add a point to the curve; at too many, drop one where they lie closest, never an end."""
        self.curve.append(CurvePoint(self.spent, loss, side))
        if len(self.curve) > CURVE_POINTS:
            spent = [point.evaluations for point in self.curve]
            gaps = [after - before for before, after in zip(spent, spent[2:], strict=False)]
            del self.curve[1 + gaps.index(min(gaps))]

    def take_image(self, image: Tensor, *, clamp: bool) -> None:
        """End a level with an image [3, h, w], clamped to [0, 1] if that is what was minimised."""
        self.out_of_range = float(((image < 0) | (image > 1)).float().mean())
        self.clamp = clamp
        self.image = image.clamp(0, 1) if clamp else image

    def enter_next_level(self) -> None:
        """Count the evaluations of a level anew; the image stays that of the level before."""
        self.level += 1
        self.level_evaluations = 0
        self.readings.clear()

    def make_checkpoint(self, image: Tensor) -> TaskCheckpoint:
        """The task as it stands, at an image [3, h, w] of its own, which is copied."""
        return TaskCheckpoint(
            index=self.index,
            level=self.level,
            level_evaluations=self.level_evaluations,
            image=image.detach().to("cpu", torch.float32, copy=True),
            spent=self.spent,
            iterations=self.iterations,
            seconds=self.seconds,
            curve=tuple(self.curve),
            readings=tuple(self.readings),
            resumed_at=self.resumed_at,
        )


def gather_blend(tasks: Sequence[Task], device: torch.device) -> Blend | None:
    """The second exemplars of some tasks, on a device; None where no task has one."""
    if all(task.blend is None for task in tasks):
        return None
    blends = [task.blend or Blend(task.exemplar[None], torch.zeros(1)) for task in tasks]
    partners = torch.cat([blend.partners for blend in blends])
    return Blend(partners, torch.cat([blend.weights for blend in blends])).to(device)


def resume_task(
    checkpoint: TaskCheckpoint,
    index: int,
    exemplar: Tensor,
    budget: float,
    seed: int,
    output_size: Size | None = None,
) -> Task:
    """The task of a checkpoint, to go on under an index of its own.

    Args:
        checkpoint: one that `validate_checkpoint` lets pass.
        index: number of the exemplar from here on.
        exemplar: [3, H', W'] at full size.
        budget: evaluations at full size, those before the checkpoint included.
        seed: of the task.
        output_size: of the texture; None is the exemplar's.
    """
    return Task(
        index,
        exemplar,
        checkpoint.image,
        budget,
        seed,
        output_size,
        level=checkpoint.level,
        level_evaluations=checkpoint.level_evaluations,
        spent=checkpoint.spent,
        iterations=checkpoint.iterations,
        seconds=checkpoint.seconds,
        curve=list(checkpoint.curve),
        readings=list(checkpoint.readings),
        resumed_at=checkpoint.resumed_at,
    )


def validate_checkpoint(checkpoint: TaskCheckpoint, sizes: Sequence[Size], name: str) -> None:
    """Raise unless a checkpoint fits the levels.

    Args:
        checkpoint: to be resumed.
        sizes: of the texture at every level, from coarse to fine.
        name: of the checkpoint, in the message.

    Raises:
        ValueError: for a level that does not exist, an image of another size, or pixels that are
            not finite.
    """
    level, image = checkpoint.level, checkpoint.image
    if not 0 <= level < len(sizes):
        raise ValueError(f"{name} is at level {level}, expected 0 to {len(sizes) - 1}")
    is_between = checkpoint.level_evaluations == 0 and level > 0
    expected = [3, *sizes[level - 1 if is_between else level]]
    if list(image.shape) != expected or image.dtype != torch.float32:
        raise ValueError(
            f"{name} has an image {image.dtype} {list(image.shape)}, "
            f"expected torch.float32 {expected} {'before' if is_between else 'at'} level {level}"
        )
    bad = int((~image.isfinite()).sum())
    if bad:
        raise ValueError(f"{name} has an image with {bad} NaN or infinite values, expected none")
