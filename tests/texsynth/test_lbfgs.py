from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from texsynth import LBFGSConfig
from texsynth.lbfgs import (
    MAX_RECOVERIES,
    LBFGSState,
    lbfgs_init,
    lbfgs_restart,
    lbfgs_select,
    lbfgs_step,
)

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
Objective = Callable[[Tensor], Tensor]
Poison = Callable[[Tensor, Tensor, int], None]
PLAIN = LBFGSConfig(line_search="none", history=20)
ARMIJO = LBFGSConfig(history=20)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def evaluate_of(objective: Objective) -> Evaluate:
    """Value and gradient of a function [B, ...] -> [B] by autograd."""

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            variables = x.detach().requires_grad_()
            value = objective(variables)
            (gradient,) = torch.autograd.grad(value.sum(), variables)
        return value.detach(), gradient

    return evaluate


def poisoned(evaluate: Evaluate, poison: Poison) -> Evaluate:
    """`poison` may spoil values and gradients; it is told the number of the evaluation."""
    count = 0

    def spoil(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal count
        value, gradient = (part.clone() for part in evaluate(x))
        poison(value, gradient, count)
        count += 1
        return value, gradient

    return spoil


def rosenbrock(lanes: int) -> Objective:
    """a (x2 - x1^2)^2 + (1 - x1)^2 with a = 1, 10, 100, ... by lane; minimum 0 at (1, 1)."""
    steepness = 10.0 ** torch.arange(lanes, dtype=torch.float64)

    def objective(x: Tensor) -> Tensor:
        return steepness * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2

    return objective


def rosenbrock_start(lanes: int) -> Tensor:
    return torch.tensor([[-1.2, 1.0]], dtype=torch.float64).repeat(lanes, 1)


def convex(lanes: int, unknowns: int = 12) -> Objective:
    """A quadratic plus a smooth quartic term, another one for each lane."""
    root = draw(lanes, unknowns, unknowns, seed=3)
    matrix = root @ root.mT / unknowns + 0.1 * torch.eye(unknowns, dtype=torch.float64)
    centre = draw(lanes, unknowns, seed=4)

    def objective(x: Tensor) -> Tensor:
        shift = x - centre
        quadratic = torch.einsum("bi,bij,bj->b", shift, matrix, shift)
        return 5 * quadratic + 0.1 * x.pow(4).sum(1)

    return objective


def run(
    start: Tensor, evaluate: Evaluate, evaluations: int, config: LBFGSConfig = ARMIJO
) -> list[LBFGSState]:
    """The states after each step, copied, as a step consumes the history of the one before."""
    state, states = lbfgs_init(start, config), []
    everything = torch.arange(len(start))
    for _ in range(evaluations):
        state = lbfgs_step(state, evaluate, config)
        states.append(lbfgs_select(state, everything))
    return states


def assert_same(first: LBFGSState, second: LBFGSState) -> None:
    for field in dataclasses.fields(LBFGSState):
        mine, theirs = getattr(first, field.name), getattr(second, field.name)
        if isinstance(mine, Tensor):
            assert torch.equal(mine, theirs), field.name
    assert torch.equal(first.history.stored, second.history.stored)


@pytest.mark.parametrize("history", [3, 100])
def test_single_lane_makes_the_iterates_of_torch(history: int) -> None:
    """torch's first step has L1 length min(1, |g|_1), ours 1: alike, as |g|_1 is above 1 here."""
    evaluate, start = evaluate_of(convex(1, 40)), draw(1, 40)
    iterates: list[Tensor] = []
    variables = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [variables], max_iter=25, history_size=history, tolerance_grad=0, tolerance_change=0
    )

    def closure() -> float:
        value, variables.grad = evaluate(variables)
        iterates.append(variables.detach().clone())
        return float(value)

    optimizer.step(closure)
    assert evaluate(start)[1].abs().sum() > 1
    config = dataclasses.replace(PLAIN, history=history)
    states = run(start, evaluate, 25, config)
    assert len(iterates) == 25
    for state, expected in zip(states, iterates, strict=True):
        torch.testing.assert_close(state.point, expected, rtol=1e-8, atol=1e-8)
    assert torch.linalg.norm(iterates[-1] - iterates[0]) > 1


@pytest.mark.parametrize("line_search", ["armijo", "none"])
def test_first_step_has_the_length_that_the_config_says(line_search: str) -> None:
    config = LBFGSConfig(line_search=line_search, first_step=0.25)  # type: ignore[arg-type]
    start = draw(3, 12)
    first, second = run(start, evaluate_of(convex(3)), 2, config)
    assert torch.equal(first.point, start)
    move = second.point - start
    torch.testing.assert_close(move.abs().sum(1), torch.full((3,), 0.25).double())
    cosine = torch.cosine_similarity(move, -first.gradient)
    torch.testing.assert_close(cosine, torch.ones(3).double())


def test_rosenbrock_lanes_of_different_conditioning_converge() -> None:
    """Steepness 1 to 10,000; the history is far longer than the unknowns are many."""
    state = run(rosenbrock_start(5), evaluate_of(rosenbrock(5)), 300)[-1]
    assert (state.best_value < 1e-12).all()
    torch.testing.assert_close(state.best_point, torch.ones(5, 2).double(), rtol=0, atol=1e-4)
    assert not state.diverged.any()
    assert len(set(state.iterations.tolist())) > 1


@pytest.mark.parametrize("history", [1, 2, 5])
def test_short_histories_converge_too(history: int) -> None:
    config = LBFGSConfig(history=history)
    state = run(rosenbrock_start(3), evaluate_of(rosenbrock(3)), 250, config)[-1]
    assert (state.best_value < 1e-10).all()


def test_armijo_never_accepts_a_higher_value() -> None:
    states = run(rosenbrock_start(4), evaluate_of(rosenbrock(4)), 80)
    values = torch.stack([state.value for state in states])
    assert (values.diff(dim=0) <= 0).all()
    backtracked = torch.stack([state.backtracks for state in states]) > 0
    assert backtracked.any(0).all()  # every lane had to backtrack at least once


def test_accepted_steps_fall_enough() -> None:
    """Armijo's rule, checked from outside at every accepted point."""
    evaluate = evaluate_of(rosenbrock(4))
    states = run(rosenbrock_start(4), evaluate, 60)
    for before, after in pairwise(states):
        accepted = after.iterations > before.iterations
        slope = (before.gradient * (after.point - before.point)).sum(1)
        limit = before.value + ARMIJO.sufficient_decrease * slope
        assert (after.value <= limit + 1e-15)[accepted].all()
        value, gradient = evaluate(after.point)
        torch.testing.assert_close(after.value, value)
        torch.testing.assert_close(after.gradient, gradient)


def test_every_evaluation_is_a_step_or_a_backtrack() -> None:
    states = run(rosenbrock_start(4), evaluate_of(rosenbrock(4)), 40)
    for before, after in pairwise(states):
        stepped = after.iterations - before.iterations
        assert (after.evaluations - before.evaluations == 1).all()
        still_going = ~before.stalled
        backtracked = (after.backtracks > before.backtracks) | (after.history.stored == 0)
        assert ((stepped == 1) | backtracked)[still_going].all()


@pytest.mark.parametrize("config", [ARMIJO, PLAIN], ids=["armijo", "none"])
def test_batch_equals_singles(config: LBFGSConfig) -> None:
    """To 1e-12, in float64: matrix products round by batch size."""
    start, objective = draw(4, 12), convex(4)
    together = run(start, evaluate_of(objective), 15, config)[-1]
    for lane in range(4):

        def alone(x: Tensor, lane: int = lane) -> Tensor:
            padded = start.index_put((torch.tensor([lane]),), x)
            return objective(padded)[lane : lane + 1]

        single = run(start[lane : lane + 1], evaluate_of(alone), 15, config)[-1]
        torch.testing.assert_close(together.point[lane], single.point[0], rtol=1e-12, atol=1e-12)
        assert together.iterations[lane] == single.iterations[0]
        assert together.backtracks[lane] == single.backtracks[0]


@pytest.mark.parametrize("config", [ARMIJO, PLAIN], ids=["armijo", "none"])
@pytest.mark.parametrize("when", [0, 4, None], ids=["start", "once", "always"])
def test_lane_isolation_under_nan(config: LBFGSConfig, when: int | None) -> None:
    evaluate, start = evaluate_of(convex(4)), draw(4, 12)

    def poison(value: Tensor, gradient: Tensor, count: int) -> None:
        if when is None or count == when:
            value[1] = torch.nan
            gradient[1] = torch.nan

    clean = run(start, evaluate, 25, config)
    spoilt = run(start, poisoned(evaluate, poison), 25, config)
    others = torch.tensor([0, 2, 3])
    for mine, theirs in zip(clean, spoilt, strict=True):
        assert_same(lbfgs_select(mine, others), lbfgs_select(theirs, others))
    assert not torch.equal(clean[-1].point[1], spoilt[-1].point[1])


@pytest.mark.parametrize("config", [ARMIJO, PLAIN], ids=["armijo", "none"])
def test_permutation_of_lanes_permutes_results(config: LBFGSConfig) -> None:
    """To 1e-12, in float64: a triangular solve may round by where in memory a lane lies."""
    order = torch.tensor([2, 0, 3, 1])
    start, objective = draw(4, 12), convex(4)

    def permuted(x: Tensor) -> Tensor:
        return objective(x[order.argsort()])[order]

    straight = run(start, evaluate_of(objective), 20, config)[-1]
    shuffled = run(start[order], evaluate_of(permuted), 20, config)[-1]
    for name in ("point", "gradient", "value", "best_point", "step"):
        mine, theirs = getattr(straight, name)[order], getattr(shuffled, name)
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(straight.iterations[order], shuffled.iterations)
    assert torch.equal(straight.history.stored[order], shuffled.history.stored)


@pytest.mark.parametrize("config", [ARMIJO, PLAIN], ids=["armijo", "none"])
def test_a_power_of_two_before_the_objective_changes_no_bit(config: LBFGSConfig) -> None:
    objective, start = convex(3), draw(3, 12)
    plain = run(start, evaluate_of(objective), 25, config)[-1]
    scaled = run(start, evaluate_of(lambda x: 1024 * objective(x)), 25, config)[-1]
    assert torch.equal(scaled.point, plain.point)


@pytest.mark.parametrize("factor", [1000.0, 1e-3, 1e9])
def test_a_factor_before_the_objective_changes_no_iterate(factor: float) -> None:
    """To rounding, which L-BFGS amplifies: the first 15 evaluations agree to 1e-9."""
    objective, start = rosenbrock(3), rosenbrock_start(3)
    plain = run(start, evaluate_of(objective), 15)
    scaled = run(start, evaluate_of(lambda x: factor * objective(x)), 15)
    for mine, theirs in zip(plain, scaled, strict=True):
        torch.testing.assert_close(mine.point, theirs.point, rtol=1e-9, atol=1e-9)
        assert torch.equal(mine.iterations, theirs.iterations)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_a_lane_recovers_from_one_bad_evaluation(bad: float, where: str) -> None:
    def poison(value: Tensor, gradient: Tensor, count: int) -> None:
        if count == 9:
            if where == "value":
                value[0] = bad
            else:
                gradient[0, 1] = bad

    states = run(rosenbrock_start(2), poisoned(evaluate_of(rosenbrock(2)), poison), 120)
    before, hurt, back, on = states[8], states[9], states[10], states[11]
    assert torch.equal(hurt.point[0], before.best_point[0])
    assert (hurt.history.stored[0], hurt.recoveries.tolist()) == (0, [1, 0])
    assert torch.equal(back.point[0], before.best_point[0])
    assert back.value[0] == before.best_value[0]
    move = (back.step[:, None] * back.direction)[0]  # a tenth of the usual first step
    assert move.abs().sum().item() == pytest.approx(0.1)
    assert on.point[0].isfinite().all()
    assert (states[-1].best_value < 1e-12).all()
    assert (states[-1].recoveries == 0).all()
    assert not states[-1].diverged.any()


def test_a_region_of_nan_is_left_by_ever_shorter_steps() -> None:
    """log x from 0.5, minimum of x - log x at 1: a step below 0 is no number."""

    def objective(x: Tensor) -> Tensor:
        return (x - x.log()).sum(1)

    start = torch.tensor([[1e-3], [0.5], [30.0]], dtype=torch.float64)
    config = LBFGSConfig(first_step=40.0)
    state = run(start, evaluate_of(objective), 60, config)[-1]
    torch.testing.assert_close(state.best_point, torch.ones(3, 1).double(), rtol=0, atol=1e-6)
    assert not state.diverged.any()


@pytest.mark.parametrize("config", [ARMIJO, PLAIN], ids=["armijo", "none"])
def test_a_lane_that_is_always_nan_has_diverged(config: LBFGSConfig) -> None:
    def poison(value: Tensor, gradient: Tensor, count: int) -> None:
        value[0], gradient[0] = torch.nan, torch.nan

    start = draw(2, 12)
    states = run(start, poisoned(evaluate_of(convex(2)), poison), MAX_RECOVERIES, config)
    assert states[-2].diverged.tolist() == [False, False]
    assert states[-1].diverged.tolist() == [True, False]
    assert torch.equal(states[-1].point[0], start[0])
    assert torch.equal(states[-1].best_point[0], start[0])
    assert states[-1].best_value[0] == torch.inf
    assert states[-1].iterations[0] == 0


def test_a_lane_that_turns_nan_for_good_keeps_its_best_point() -> None:
    def poison(value: Tensor, gradient: Tensor, count: int) -> None:
        if count >= 8:
            value[0] = torch.nan

    states = run(draw(2, 12), poisoned(evaluate_of(convex(2)), poison), 8 + MAX_RECOVERIES)
    assert states[-1].diverged.tolist() == [True, False]
    assert torch.equal(states[-1].best_point[0], states[7].best_point[0])
    assert torch.equal(states[-1].point[0], states[7].best_point[0])


def test_a_lane_at_its_minimum_is_stalled_and_stays() -> None:
    start = rosenbrock_start(2)
    start[1] = 1.0
    states = run(start, evaluate_of(rosenbrock(2)), 5)
    assert all(state.stalled.tolist() == [False, True] for state in states)
    assert torch.equal(states[-1].point[1], start[1])
    assert (states[-1].iterations[1], states[-1].best_value[1]) == (0, 0)
    assert not states[-1].diverged.any()


def test_lanes_stall_when_floating_point_knows_no_descent() -> None:
    """A step cannot fall below the rounding of 1e12 that is added to the value."""

    def objective(x: Tensor) -> Tensor:
        return 1e12 + x.square().sum(1)

    start = 1e-3 * draw(3, 12)
    states = run(start, evaluate_of(objective), 60)
    assert states[-1].stalled.all()
    at_rest = next(state for state in states if state.stalled.all())
    assert torch.equal(states[-1].point, at_rest.point)
    assert states[-1].point.isfinite().all()


def test_exhausted_backtracks_drop_the_history() -> None:
    """After good steps every value is a little higher: the lane starts afresh, then stalls."""
    config = LBFGSConfig(max_backtracks=3)

    def poison(value: Tensor, gradient: Tensor, count: int) -> None:
        if count > 5:
            value += 1e6

    states = run(draw(2, 12), poisoned(evaluate_of(convex(2)), poison), 15, config)
    assert (states[5].history.stored > 0).all()
    assert (states[7].backtracks == 2).all()
    assert (states[8].history.stored == 0).all()
    assert (states[8].backtracks == 0).all()
    assert not states[10].stalled.any()
    assert states[11].stalled.all()
    assert torch.equal(states[-1].point, states[5].point)


@pytest.mark.parametrize("config", [ARMIJO, PLAIN], ids=["armijo", "none"])
def test_the_best_point_is_kept(config: LBFGSConfig) -> None:
    evaluate = evaluate_of(rosenbrock(3))
    seen: list[tuple[Tensor, Tensor]] = []

    def recorded(x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = evaluate(x)
        seen.append((x.clone(), value))
        return value, gradient

    rises = 0
    state = lbfgs_init(rosenbrock_start(3), config)
    for _ in range(40):
        before = state
        state = lbfgs_step(state, recorded, config)
        rises += int((state.value > before.value).sum())
        values = torch.stack([value for _, value in seen])
        points = torch.stack([point for point, _ in seen])
        lowest, index = values.min(0)
        assert torch.equal(state.best_value, lowest)
        assert torch.equal(state.best_point, points[index, torch.arange(3)])
    assert (rises > 0) == (config.line_search == "none")


def test_pairs_without_positive_curvature_are_not_kept() -> None:
    """-x^2 curves downwards; its steps go on, as steepest descent."""
    states = run(draw(2, 12), evaluate_of(lambda x: -x.square().sum(1)), 5)
    assert (states[-1].history.stored == 0).all()
    assert (states[-1].iterations == 4).all()


@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 4), (3, 2, 2, 2)])
def test_any_shape_behind_the_lane(shape: tuple[int, ...]) -> None:
    start = draw(3, 8)
    objective = convex(3, 8)
    flat = run(start, evaluate_of(objective), 12)[-1]
    shaped = run(start.view(shape), evaluate_of(lambda x: objective(x.flatten(1))), 12)[-1]
    assert shaped.point.shape == shape
    assert torch.equal(shaped.point.flatten(1), flat.point)


def test_float32_variables_keep_float64_scalars() -> None:
    evaluate = evaluate_of(lambda x: convex(2)(x.double()))
    state = run(draw(2, 12).float(), evaluate, 30)[-1]
    assert (state.point.dtype, state.gradient.dtype) == (torch.float32, torch.float32)
    scalars = (state.value, state.step, state.slope, state.best_value, state.first_scale)
    assert all(scalar.dtype == torch.float64 for scalar in scalars)
    exact = run(draw(2, 12), evaluate_of(convex(2)), 60)[-1]
    torch.testing.assert_close(state.best_value, exact.best_value, rtol=1e-6, atol=0)


def test_the_start_is_copied() -> None:
    start = draw(2, 12)
    kept = start.clone()
    state = lbfgs_init(start, ARMIJO)
    start.zero_()
    assert torch.equal(state.point, kept)
    assert torch.equal(state.best_point, kept)


def lanes_of(objective: Objective, lanes: Tensor, whole: int) -> Objective:
    """The objective of some lanes of a batch of `whole`."""

    def some(x: Tensor) -> Tensor:
        return objective(torch.zeros(whole, *x.shape[1:]).double().index_copy(0, lanes, x))[lanes]

    return some


def test_selected_lanes_go_on_as_they_would_have() -> None:
    objective, lanes = convex(4), torch.tensor([3, 1])
    whole = run(draw(4, 12), evaluate_of(objective), 8)[-1]
    chosen = lbfgs_select(whole, lanes)
    chosen_objective = lanes_of(objective, lanes, 4)
    for _ in range(8):
        whole = lbfgs_step(whole, evaluate_of(objective), ARMIJO)
        chosen = lbfgs_step(chosen, evaluate_of(chosen_objective), ARMIJO)
    torch.testing.assert_close(chosen.point, whole.point[lanes], rtol=1e-10, atol=1e-10)
    assert torch.equal(chosen.iterations, whole.iterations[lanes])


def test_a_selection_shares_no_memory() -> None:
    whole = run(draw(3, 12), evaluate_of(convex(3)), 5)[-1]
    ring = whole.history.s.clone()
    chosen = lbfgs_select(whole, torch.tensor([0, 1, 2]))
    lbfgs_step(chosen, evaluate_of(convex(3)), ARMIJO)
    assert torch.equal(whole.history.s, ring)


def test_restarted_lanes_begin_as_new_ones_and_leave_the_others_alone() -> None:
    """Beside an older lane they walk as they would have from the start of a batch."""
    objective, lanes, points = convex(3), torch.tensor([2, 0]), draw(2, 12, seed=9)
    old = run(draw(3, 12), evaluate_of(objective), 9)[-1]
    untouched = lbfgs_select(old, torch.arange(3))
    mixed = lbfgs_restart(old, lanes, points)
    assert_same(lbfgs_select(mixed, lanes), lbfgs_init(points, ARMIJO))
    one = torch.tensor([1])
    assert_same(lbfgs_select(mixed, one), lbfgs_select(untouched, one))
    assert torch.equal(mixed.history.s[1], untouched.history.s[1])
    alone = lbfgs_init(torch.stack([points[1], draw(3, 12)[1], points[0]]), ARMIJO)
    for _ in range(9):
        mixed = lbfgs_step(mixed, evaluate_of(objective), ARMIJO)
        alone = lbfgs_step(alone, evaluate_of(objective), ARMIJO)
        untouched = lbfgs_step(untouched, evaluate_of(objective), ARMIJO)
    # Not to the bit: slots of a longer ring that hold nothing change how its products round.
    torch.testing.assert_close(mixed.point[[0, 2]], alone.point[[0, 2]], rtol=1e-10, atol=1e-10)
    assert_same(lbfgs_select(mixed, one), lbfgs_select(untouched, one))
    assert mixed.evaluations.tolist() == [9, 18, 9]
    assert torch.equal(mixed.iterations[lanes], alone.iterations[lanes])


@pytest.mark.parametrize("history", [4, 20])
def test_a_restarted_lane_does_not_read_what_its_history_held(history: int) -> None:
    """To the bit, although old pairs of other sizes, or 1e30, lie in the slots that come next."""
    objective, config = convex(3), LBFGSConfig(history=history)
    old = run(draw(3, 12), evaluate_of(objective), 9, config)[-1]
    lane, point = torch.tensor([1]), draw(1, 12, seed=9)
    walks = []
    for spoil in (0.0, 1.0, 1e30):
        state = lbfgs_select(old, torch.arange(3))
        for ring in (state.history.s, state.history.y, state.history.sy, state.history.yy):
            ring[1] = spoil * ring[1] if spoil < 2 else spoil
        state = lbfgs_restart(state, lane, point)
        states = []
        for _ in range(12):
            state = lbfgs_step(state, evaluate_of(objective), config)
            states.append(lbfgs_select(state, torch.arange(3)))
        walks.append(states)
    for clean, stale, huge in zip(*walks, strict=True):
        assert_same(clean, stale)
        assert_same(clean, huge)
    assert walks[0][-1].iterations[1] > 4


def test_a_stalled_or_diverged_lane_can_be_restarted() -> None:
    def poison(value: Tensor, gradient: Tensor, count: int) -> None:
        value[0] = torch.nan

    start = draw(2, 12)
    state = run(start, poisoned(evaluate_of(convex(2)), poison), 8)[-1]
    assert state.diverged.tolist() == [True, False]
    state = lbfgs_restart(state, torch.tensor([0]), start[:1])
    for _ in range(40):
        state = lbfgs_step(state, evaluate_of(convex(2)), ARMIJO)
    expected = run(start, evaluate_of(convex(2)), 40)[-1]
    assert not state.diverged.any()
    torch.testing.assert_close(state.best_value[0], expected.best_value[0])


def test_restarted_points_are_copied() -> None:
    points = draw(1, 12, seed=9)
    kept = points.clone()
    state = lbfgs_restart(lbfgs_init(draw(3, 12), ARMIJO), torch.tensor([1]), points)
    points.zero_()
    assert torch.equal(state.point[1:2], kept)
    assert torch.equal(state.best_point[1:2], kept)
