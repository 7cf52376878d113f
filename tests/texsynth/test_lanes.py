from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import SynthesisConfig, TextureNetwork, TextureObjective
from texsynth.config import Start, Weighting
from texsynth.features import Padding
from texsynth.images import resize
from texsynth.lanes import LaneBatch
from texsynth.lbfgs import lbfgs_init
from texsynth.sensitivity import PROBE_COST
from texsynth.start import refine
from texsynth.tasks import Task

CONFIG = SynthesisConfig(
    gram_weight=1e6,
    spectrum_weight=1e-2 * (32 / 256) ** 2,  # a factor of 1e3 at 32 px
    range_weight=1e3,
    weighting="none",
    settle=False,
    levels=1,
)
WEIGHTINGS: list[Weighting] = ["none", "sensitivity"]
SIDE = 32


@pytest.fixture(scope="module")
def network(make_network: Callable[..., TextureNetwork]) -> TextureNetwork:
    """Two convolutions in float32: taps relu1_1 and pool1 at 32 px."""
    return make_network(deepest="relu1_2").float()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_of(index: int = 0, *, budget: float = 20.0, dtype: torch.dtype = torch.float32) -> Task:
    """A task whose exemplar and start are drawn from its index."""
    exemplar, image = draw(2, 3, SIDE, SIDE, seed=index).to(dtype)
    return Task(index, exemplar, image, budget)


def batch_of(network: TextureNetwork, config: SynthesisConfig = CONFIG) -> LaneBatch:
    return LaneBatch(network, config, (SIDE, SIDE), full_size=(SIDE, SIDE))


def probes_of(config: SynthesisConfig) -> float:
    """Evaluations that measuring costs at a level of full size."""
    return 0.0 if config.weighting == "none" else PROBE_COST


def run(batch: LaneBatch, refill: Sequence[Task] = ()) -> list[Task]:
    """Advance to the end, putting the next task on a lane as soon as one is free."""
    waiting, ended = list(refill), []
    while batch.running:
        ended += (now := batch.advance())
        if now and waiting:
            batch.admit([waiting.pop(0) for _ in range(min(len(now), len(waiting)))])
    return ended


def test_readings_of_a_lane_do_not_depend_on_when_others_join(network: TextureNetwork) -> None:
    curves = []
    for companions in (False, True):
        batch = batch_of(network)
        task = task_of(0, budget=48)
        batch.admit([task, task_of(1, budget=13)] if companions else [task])
        run(batch, refill=[task_of(2, budget=8), task_of(3, budget=9)] if companions else [])
        curves.append([point.evaluations for point in task.curve])
    assert curves[0] == curves[1] == [1, 10, 20, 30, 40, 48]


def test_targets_and_steps_use_exact_arithmetic(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, forward = [], TextureNetwork.forward

    def spy(
        self: TextureNetwork, images: Tensor, taps: Sequence[str], *padding: Padding
    ) -> list[Tensor]:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return forward(self, images, taps, *padding)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(TextureNetwork, "forward", spy)
    batch = batch_of(network)
    batch.admit([task_of(budget=1)])
    batch.advance()
    assert allowed == [False, False]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_refilled_and_compacted_lanes_give_what_each_task_gets_alone(
    make_network: Callable[..., TextureNetwork], weighting: Weighting
) -> None:
    # In float64, where the growth of rounding (5e-10 here) hides no mistake.
    network = make_network(deepest="relu1_2")
    config = dataclasses.replace(CONFIG, weighting=weighting)
    budgets = [probes_of(config) + evaluations for evaluations in (24, 11, 17, 30, 12)]

    def admitted(index: int) -> Task:
        return task_of(index, budget=budgets[index], dtype=torch.float64)

    alone = []
    for index in range(5):
        batch = batch_of(network, config)
        batch.admit([admitted(index)])
        alone += run(batch)
    batch = batch_of(network, config)
    batch.admit([admitted(0), admitted(1)])
    together = run(batch, refill=[admitted(index) for index in (2, 3, 4)])
    assert sorted(task.index for task in together) == list(range(5))
    for task in together:
        expected = alone[task.index]
        assert (task.spent, task.stop_reason) == (budgets[task.index], "budget")
        assert task.iterations == expected.iterations
        assert task.objective_loss == pytest.approx(expected.objective_loss, rel=1e-6)
        torch.testing.assert_close(task.image, expected.image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_tasks_that_go_on_beside_new_ones_give_what_each_gives_alone(
    make_network: Callable[..., TextureNetwork], weighting: Weighting
) -> None:
    network = make_network(deepest="relu1_2")
    config = dataclasses.replace(CONFIG, weighting=weighting)
    probes = probes_of(config)

    def admitted(index: int) -> Task:
        task = task_of(index, budget=probes + 24, dtype=torch.float64)
        task.level_evaluations = task.spent = (0, 7, 15)[index]
        task.image = resize(task.image[None], *((SIDE, SIDE), (SIDE, SIDE), (16, 16))[index])[0]
        return task

    alone = []
    for index in range(3):
        batch = batch_of(network, config)
        batch.admit([admitted(index)])
        alone += run(batch)
    batch = batch_of(network, config)
    batch.admit([admitted(index) for index in range(3)])
    for task in run(batch):
        expected = alone[task.index]
        assert (task.spent - probes, task.level_evaluations) == (24, 24)
        assert task.stop_reason == "budget"
        assert [point[::2] for point in task.curve] == [point[::2] for point in expected.curve]
        assert task.iterations == expected.iterations
        torch.testing.assert_close(task.image, expected.image, rtol=0, atol=1e-6)
    assert [task.curve[0].evaluations - probes for task in alone] == [1, 10, 20]


def test_a_task_has_one_evaluation_even_if_its_budget_is_spent(network: TextureNetwork) -> None:
    task = task_of(budget=20)
    task.level_evaluations, task.spent = 30, 30.0
    batch = batch_of(network)
    batch.admit([task])
    run(batch)
    assert (task.spent, task.stop_reason) == (31, "budget")
    assert task.objective_loss == task.curve[0].loss


def test_compacted_lanes_go_on_as_they_were(make_network: Callable[..., TextureNetwork]) -> None:
    images = []
    network = make_network(deepest="relu1_2")
    for compacted in (False, True):
        batch = batch_of(network)
        tasks = [
            task_of(index, budget=budget, dtype=torch.float64)
            for index, budget in enumerate((5, 25, 5))
        ]
        batch.admit(tasks)
        while batch.running:
            batch.advance()
            if compacted:
                batch.compact()
        images.append(tasks[1].image)
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-6)


def test_an_emptied_batch_takes_any_number_of_tasks(network: TextureNetwork) -> None:
    batch = batch_of(network)
    batch.compact()
    batch.admit([task_of(budget=2)])
    run(batch)
    batch.compact()
    assert batch.advance() == []
    batch.admit([task_of(1, budget=2), task_of(2, budget=2)])
    assert {task.index for task in run(batch)} == {1, 2}


def test_more_tasks_than_free_lanes_are_refused(network: TextureNetwork) -> None:
    batch = batch_of(network)
    batch.admit([task_of(0, budget=1), task_of(1, budget=40)])
    batch.advance()
    with pytest.raises(ValueError, match="2 tasks for 1 free lanes"):
        batch.admit([task_of(2), task_of(3)])
    batch.admit([task_of(2)])
    assert [task.index for task in batch.running] == [2, 1]


def test_a_level_takes_its_share_of_the_budget(network: TextureNetwork) -> None:
    batch = LaneBatch(network, CONFIG, (SIDE, SIDE), full_size=(64, 64), finer_cost=1.0)
    task = task_of(budget=25)
    batch.admit([task])
    run(batch)
    # As many here, a quarter each, as at the finer level: 20 * (1/4 + 1) = 25.
    assert task.spent == 20 / 4
    assert task.curve[-1].evaluations == task.spent
    assert task.curve[0] == (0.25, task.curve[0].loss, SIDE)


def test_a_lane_without_finite_values_ends_and_leaves_the_others_alone(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = TextureObjective.value_and_gradient

    def poisoned(self: TextureObjective, images: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = evaluate(self, images)
        value[1], gradient[1] = torch.nan, torch.nan
        return value, gradient

    ended = []
    for spoil in (False, True):
        if spoil:
            monkeypatch.setattr(TextureObjective, "value_and_gradient", poisoned)
        batch = batch_of(network)
        batch.admit([task_of(index, budget=30) for index in range(3)])
        ended.append({task.index: task for task in run(batch)})
    clean, spoilt = ended
    assert spoilt[1].stop_reason == "diverged"
    assert spoilt[1].spent == 10
    torch.testing.assert_close(spoilt[1].image, task_of(1).image, rtol=0, atol=0)
    for index in (0, 2):
        assert torch.equal(spoilt[index].image, clean[index].image)
        assert spoilt[index].curve == clean[index].curve


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_lane_in_recovery_reports_the_loss_of_the_point_it_is_at(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch, keep_best: bool
) -> None:
    evaluate, count = TextureObjective.value_and_gradient, 0

    def once_nan(self: TextureObjective, images: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal count
        count += 1
        value, gradient = evaluate(self, images)
        return (value * torch.nan if count == 10 else value), gradient

    monkeypatch.setattr(TextureObjective, "value_and_gradient", once_nan)
    config = dataclasses.replace(CONFIG, clamp=False, keep_best=keep_best)
    batch = batch_of(network, config)
    task = task_of(budget=10)
    batch.admit([task])
    run(batch)
    objective = TextureObjective(network, task.exemplar[None], config)
    value, _ = evaluate(objective, task.image[None])
    assert task.curve[-1].loss == task.objective_loss == pytest.approx(float(value), rel=1e-5)


def test_plateau_is_a_small_fall_over_the_last_evaluations(network: TextureNetwork) -> None:
    config = dataclasses.replace(CONFIG, plateau_tolerance=0.6, plateau_evaluations=20)
    batch = batch_of(network, config)
    task = task_of(budget=500)
    batch.admit([task])
    run(batch)
    # With a line search the latest loss is the lowest, so the curve holds what the rule saw.
    losses = [point.loss for point in task.curve]
    # Readings at 1, 10, 20, ...: 20 evaluations are two of them, once the start is behind.
    falls = [
        (losses[at - 2] - losses[at]) < 0.6 * losses[at] if at > 2 else False
        for at in range(len(losses))
    ]
    assert task.stop_reason == "plateau"
    assert falls.index(True) == len(losses) - 1
    assert task.spent < 500


def test_an_exemplar_that_is_its_own_start_has_nothing_to_do(network: TextureNetwork) -> None:
    task = task_of(budget=100)
    task.image = task.exemplar.clone()
    batch = batch_of(network, dataclasses.replace(CONFIG, spectrum="none"))
    batch.admit([task])
    run(batch)
    assert (task.stop_reason, task.objective_loss) == ("plateau", 0.0)
    torch.testing.assert_close(task.image, task.exemplar, rtol=0, atol=0)


def test_time_limit_counts_a_lane_s_own_seconds_and_anew_after_resume(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("texsynth.lanes.time", SimpleNamespace(monotonic=lambda: next(clock)))
    # Admission takes one second of this clock and so does every advance.
    batch = batch_of(network, dataclasses.replace(CONFIG, time_limit_s=3.0))
    task = task_of(budget=200)
    batch.admit([task])
    run(batch)
    assert (task.stop_reason, task.spent, task.seconds) == ("time_limit", 10, 3.0)
    batch.resume(200)
    run(batch)
    assert (task.stop_reason, task.spent, task.seconds) == ("time_limit", 40, 6.0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("spectrum", ["gray", "colour"])
def test_resume_is_as_if_it_had_not_stopped(
    network: TextureNetwork, spectrum: Any, weighting: Weighting
) -> None:
    config = dataclasses.replace(CONFIG, spectrum=spectrum, weighting=weighting)
    probes = probes_of(config)
    once, twice = task_of(budget=probes + 40), task_of(budget=probes + 20)
    for task in (once, twice):
        batch = batch_of(network, config)
        batch.admit([task])
        run(batch)
    assert twice.spent == probes + 20
    batch.resume(20)
    run(batch)
    assert (twice.spent, twice.budget) == (probes + 40, probes + 40)
    assert torch.equal(twice.image, once.image)
    assert twice.curve == once.curve
    assert (twice.objective_loss, twice.iterations) == (once.objective_loss, once.iterations)


# What a lane begins with


@pytest.fixture
def begun_with(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Images at which the lanes of batches begin, filled as they do."""
    seen: list[Tensor] = []

    def spy(images: Tensor, *rest: Any) -> Any:
        seen.append(images)
        return lbfgs_init(images, *rest)

    monkeypatch.setattr("texsynth.lanes.lbfgs_init", spy)
    return seen


@pytest.mark.parametrize("start", ["noise", "random_phase"])
@pytest.mark.parametrize("side", [16, 32, 48])
def test_detail_is_added_to_what_is_enlarged_if_a_random_phase_is_wanted(
    network: TextureNetwork, begun_with: list[Tensor], start: Start, side: int
) -> None:
    task = task_of(budget=1)
    task.seed, task.image = 5, draw(3, side, side, seed=8)
    batch_of(network, dataclasses.replace(CONFIG, start=start)).admit([task])
    expected = resize(task.image[None], SIDE, SIDE)
    if side < SIDE and start == "random_phase":
        detailed = refine(task.image[None], task.exemplar[None], [5])
        assert (detailed - expected).abs().mean() > 0.05
        expected = detailed
    assert torch.equal(begun_with[0], expected)


def test_measuring_is_charged_at_the_cost_of_its_level(network: TextureNetwork) -> None:
    config = dataclasses.replace(CONFIG, weighting="sensitivity")
    batch = LaneBatch(network, config, (SIDE, SIDE), full_size=(64, 64), finer_cost=1.0)
    tasks = [task_of(index, budget=25) for index in range(2)]
    batch.admit(tasks)
    assert [task.spent for task in tasks] == [PROBE_COST / 4] * 2
    run(batch)
    # What is left is shared out: 19 * (1/4 + 1) = 23.75, and 20 would be more than 23.875.
    assert [task.spent for task in tasks] == [(PROBE_COST + 19) / 4] * 2
    assert tasks[0].curve[0].evaluations == (PROBE_COST + 1) / 4
    assert tasks[0].resumed_at == ()


def test_admission_that_fails_charges_nothing(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("texsynth.lanes.lbfgs_init", refuse)
    batch, task = batch_of(network, dataclasses.replace(CONFIG, weighting="sensitivity")), task_of()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        batch.admit([task])
    assert (task.spent, task.seconds, task.begun, batch.running) == (0, 0, False, [])
