"""L-BFGS over B independent problems at once: one state, one step, nothing shared between lanes.

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization" (Mathematical
Programming 45, 1989). Lanes march in evaluations, not in iterations: every batched evaluation is
for each lane either its next accepted step or one backtrack of its own line search, and every
decision is a mask [B] that stays on the device. Knows no images: x [B, ...] -> (f [B], g [B, ...]).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from texsynth.config import LBFGSConfig
from texsynth.curvature import CurvatureHistory, dot
from texsynth.shapes import LaneCount, LaneIndex, LaneMask, PerLane, Variables

Evaluate = Callable[[Variables], tuple[PerLane, Variables]]
"""Value [B] and gradient [B, ...] of each lane at x [B, ...]."""

SHORTEST_BACKTRACK, LONGEST_BACKTRACK = 0.1, 0.5
"""Safeguards of the interpolated step, Nocedal & Wright (2006), section 3.5."""
RECOVERY_SHRINK = 0.1
"""Factor of the first step after a recovery; a tenth is as far as one backtrack may go."""
MAX_RECOVERIES = 5
"""Recoveries in a row after which a lane has diverged."""


@dataclass(frozen=True)
class LBFGSState:
    """Where every lane stands. The history is updated in place; all else is replaced by a step.

    Args:
        point, gradient: [B, ...], the accepted point and its gradient.
        value: [B] float64, the objective there; infinite before a lane's first evaluation.
        direction, step, slope: what is tried next: point + step * direction, slope = g.d.
        best_point, best_value: the lowest point that the lane has seen.
        history: curvature pairs.
        first_scale: [B], factor of the first step, below 1 after a recovery.
        iterations, evaluations: [B], accepted steps and evaluations so far.
        backtracks, recoveries: [B], rejected steps and recoveries in a row.
        stalled: [B], no descent is left in floating point; the lane stays where it is.
    """

    point: Variables
    gradient: Variables
    value: PerLane
    direction: Variables
    step: PerLane
    slope: PerLane
    best_point: Variables
    best_value: PerLane
    history: CurvatureHistory
    first_scale: PerLane
    iterations: LaneCount
    evaluations: LaneCount
    backtracks: LaneCount
    recoveries: LaneCount
    stalled: LaneMask

    @property
    def diverged(self) -> LaneMask:
        """[B], lanes that gave nothing finite in MAX_RECOVERIES attempts in a row."""
        return self.recoveries >= MAX_RECOVERIES


def lbfgs_init(point: Variables, config: LBFGSConfig) -> LBFGSState:
    """A state at the start points; the first step evaluates them and moves nothing.

    Args:
        point: [B, ...], floating point; copied.
        config: size of the history.
    """
    return _begin(point, CurvatureHistory.empty(point.flatten(1), config.history))


@torch.no_grad()
def lbfgs_step(state: LBFGSState, evaluate: Evaluate, config: LBFGSConfig) -> LBFGSState:
    """One evaluation of every lane, and what each lane makes of it.

    A lane accepts the point that it tried if the objective is finite and, with a line search, fell
    enough (Armijo); otherwise it backtracks. After a value that is not finite, or a direction that
    is no descent, it returns to its best point without its history.

    Args:
        state: of the step before; its history is consumed.
        evaluate: x [B, ...] -> (f [B], g [B, ...]).
        config: as given to `lbfgs_init`.

    Returns:
        The state after the step, with one more evaluation for every lane.
    """
    move = _columns(state.step, state.direction) * state.direction
    trial = state.point + move
    value, gradient = evaluate(trial)
    value = value.double()
    finite = value.isfinite() & gradient.flatten(1).isfinite().all(1)
    first = state.value.isinf()
    accepted = finite & (first | _falls_enough(state, value, config)) & ~state.stalled
    gradient = torch.where(_columns(finite, gradient), gradient, 0)
    _remember(state, move, gradient, accepted & ~first, config)
    rejected = finite & ~accepted & ~state.stalled
    exhausted = rejected & (state.backtracks + 1 >= config.max_backtracks)
    moved = _accept(state, trial, value, gradient, accepted)
    moved = _backtrack(moved, value, rejected, exhausted)
    moved = _aim(moved, accepted | exhausted, config)
    return _recover(moved, ~finite & ~state.stalled)


def lbfgs_restart(state: LBFGSState, lanes: LaneIndex, points: Variables) -> LBFGSState:
    """The state with some lanes begun anew at other points; their history is forgotten in place.

    Args:
        state: consumed.
        lanes: which.
        points: [lanes, ...], where each begins.
    """
    state.history.clear(lanes)
    return _begin_anew(state, lanes, points, kept=())


def lbfgs_reconsider(state: LBFGSState, lanes: LaneIndex, points: Variables) -> LBFGSState:
    """The state with some lanes at points where the objective is another one than before.

    They evaluate it first, and go on with the history that they have.

    Args:
        state: of before.
        lanes: which.
        points: [lanes, ...], where they are now.
    """
    return _begin_anew(state, lanes, points, kept=("first_scale", "iterations", "evaluations"))


def lbfgs_select(state: LBFGSState, lanes: LaneIndex) -> LBFGSState:
    """The state of some lanes, in the order given; shares no memory with the original."""
    rings = {name: ring[lanes] for name, ring in _tensors(state.history).items()}
    kept = {name: mine[lanes] for name, mine in _tensors(state).items()}
    return replace(state, history=replace(state.history, **rings), **kept)


def _begin(point: Variables, history: CurvatureHistory) -> LBFGSState:
    """Lanes before their first evaluation."""
    lanes = len(point)
    scalar = torch.zeros(lanes, dtype=torch.float64, device=point.device)
    count = torch.zeros(lanes, dtype=torch.int64, device=point.device)
    zeros = torch.zeros_like(point)
    return LBFGSState(
        point=point.clone(),
        gradient=zeros,
        value=scalar + torch.inf,
        direction=zeros,
        step=scalar,
        slope=scalar,
        best_point=point.clone(),
        best_value=scalar + torch.inf,
        history=history,
        first_scale=scalar + 1,
        iterations=count,
        evaluations=count,
        backtracks=count,
        recoveries=count,
        stalled=count.bool(),
    )


def _begin_anew(
    state: LBFGSState, lanes: LaneIndex, points: Variables, *, kept: Sequence[str]
) -> LBFGSState:
    """Some lanes before their first evaluation at other points, but for what is kept."""
    fresh = _tensors(_begin(points, state.history))
    changes = {
        name: mine.index_copy(0, lanes, fresh[name])
        for name, mine in _tensors(state).items()
        if name not in kept
    }
    return replace(state, **changes)


def _tensors(record: LBFGSState | CurvatureHistory) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _columns(per_lane: Tensor, like: Variables) -> Tensor:
    """[B] -> [B, 1, ...], of the variables' dtype unless it is a mask."""
    shaped = per_lane.view(-1, *[1] * (like.ndim - 1))
    return shaped if per_lane.dtype == torch.bool else shaped.to(like.dtype)


def _falls_enough(state: LBFGSState, value: PerLane, config: LBFGSConfig) -> LaneMask:
    """Armijo's rule, Nocedal & Wright (2006), eq. 3.4; always, without a line search."""
    if config.line_search == "none":
        return torch.ones_like(state.stalled)
    return value <= state.value + config.sufficient_decrease * state.step * state.slope


def _remember(
    state: LBFGSState,
    move: Variables,
    gradient: Variables,
    accepted: LaneMask,
    config: LBFGSConfig,
) -> None:
    """Push (s, y) where s.y is positive, relative to |s| |y|."""
    s, y = move.flatten(1), (gradient - state.gradient).flatten(1)
    size = (dot(s, s) * dot(y, y)).sqrt()
    curved = dot(s, y) > config.curvature_tolerance * size
    state.history.push(s, y, accepted & curved)


def _accept(
    state: LBFGSState, trial: Variables, value: PerLane, gradient: Variables, accepted: LaneMask
) -> LBFGSState:
    """Move the accepted lanes to their trial points and count the evaluation."""
    column = _columns(accepted, trial)
    better = accepted & (value < state.best_value)
    progressed = accepted & ~state.value.isinf()
    return replace(
        state,
        point=torch.where(column, trial, state.point),
        gradient=torch.where(column, gradient, state.gradient),
        value=torch.where(accepted, value, state.value),
        best_point=torch.where(_columns(better, trial), trial, state.best_point),
        best_value=torch.where(better, value, state.best_value),
        first_scale=torch.where(progressed, 1, state.first_scale),
        iterations=state.iterations + progressed,
        evaluations=state.evaluations + 1,
        backtracks=torch.where(accepted, 0, state.backtracks),
        recoveries=torch.where(progressed, 0, state.recoveries),
    )


def _aim(state: LBFGSState, lanes: LaneMask, config: LBFGSConfig) -> LBFGSState:
    """A new direction for some lanes: quasi-Newton, or steepest descent."""
    flat = state.gradient.flatten(1)
    direction = -state.history.inverse_hessian_product(flat)
    slope = dot(direction, flat)
    state.history.forget(lanes & ~(slope < 0))
    steepest = state.history.stored == 0
    direction = torch.where(steepest[:, None], -flat, direction)
    slope = torch.where(steepest, -dot(flat, flat), slope)
    length = flat.abs().sum(1, dtype=torch.float64)
    first_step = state.first_scale * config.first_step / length
    if config.line_search == "none":
        # As torch.optim.LBFGS: never longer than the gradient itself.
        first_step = first_step.clamp(max=1.0)
    step = torch.where(steepest, first_step, 1.0)
    at_rest = length == 0
    return replace(
        state,
        direction=torch.where(lanes[:, None], direction, state.direction.flatten(1)).view_as(
            state.point
        ),
        slope=torch.where(lanes, slope, state.slope),
        step=torch.where(lanes, torch.where(at_rest, 0.0, step), state.step),
        stalled=state.stalled | (lanes & at_rest),
    )


def _backtrack(
    state: LBFGSState, value: PerLane, rejected: LaneMask, exhausted: LaneMask
) -> LBFGSState:
    """A shorter step for the rejected lanes: the minimum of the parabola through what is known.

    An exhausted lane drops its history; one that has none left to drop is stalled.
    """
    excess = value - state.value - state.step * state.slope
    parabola = -state.slope * state.step / (2 * excess)
    factor = parabola.nan_to_num(SHORTEST_BACKTRACK).clamp(SHORTEST_BACKTRACK, LONGEST_BACKTRACK)
    hopeless = exhausted & (state.history.stored == 0)
    state.history.forget(exhausted)
    backtracks = torch.where(rejected, state.backtracks + 1, state.backtracks)
    return replace(
        state,
        step=torch.where(rejected, factor * state.step, state.step),
        backtracks=torch.where(exhausted, 0, backtracks),
        stalled=state.stalled | hopeless,
    )


def _recover(state: LBFGSState, lanes: LaneMask) -> LBFGSState:
    """Send some lanes back to their best points, with a shorter first step from there."""
    column = _columns(lanes, state.point)
    state.history.forget(lanes)
    return replace(
        state,
        point=torch.where(column, state.best_point, state.point),
        direction=torch.where(column, 0, state.direction),
        value=torch.where(lanes, torch.inf, state.value),
        step=torch.where(lanes, 0.0, state.step),
        first_scale=torch.where(lanes, RECOVERY_SHRINK * state.first_scale, state.first_scale),
        backtracks=torch.where(lanes, 0, state.backtracks),
        recoveries=torch.where(lanes, state.recoveries + 1, state.recoveries),
    )
