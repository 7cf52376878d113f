"""Pixels that settle: what they hold, and what it brings."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import (
    SynthesisConfig,
    TextureNetwork,
    TextureObjective,
    load_network,
    prepare_synthesis,
    synthesize,
)
from texsynth.lanes import LaneBatch
from texsynth.rounding import (
    SHARE,
    STAGE_EVALUATIONS,
    STAGES,
    SettledPixels,
    count_stage_evaluations,
)
from texsynth.tasks import Task

CONFIG = SynthesisConfig(
    gram_weight=1e6,
    spectrum_weight=1e-2 * (32 / 256) ** 2,  # a factor of 1e3 at 32 px
    range_weight=1e3,
    weighting="none",
    levels=1,
    plateau_tolerance=0.0,
    evaluations=200,
)


@pytest.fixture(scope="module")
def network() -> TextureNetwork:
    return load_network("random:0")


def draw(lanes: int = 1, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand((lanes, 3, side, side), generator=torch.Generator().manual_seed(seed))


def is_8_bit(image: Tensor) -> Tensor:
    return (image * 255 - (image * 255).round()).abs() < 1e-4


def test_ever_more_pixels_settle_and_stay() -> None:
    images = 1.4 * draw(2) - 0.2
    settled, image = SettledPixels(images), images[1]
    for stage in range(1, STAGES + 1):
        before = image
        image = settled.settle(1, image, stage)
        held = settled.apply(images + 1)[1] != images[1] + 1
        assert is_8_bit(image)[held].all()
        assert held.float().mean() == pytest.approx(1 - (1 - SHARE) ** stage, abs=0.02)
        assert torch.equal(image[~held], before[~held])
        assert (image - before.clamp(0, 1)).abs()[held].max() <= 0.5 / 255 + 1e-6
        assert torch.equal(settled.apply(images + 1)[1][held], image[held])
        assert torch.equal(settled.apply(images + 1)[1][~held], (images + 1)[1][~held])
        image = torch.where(held, image, image + 0.01)
    assert torch.equal(settled.apply(images)[0], images[0])


def test_lanes_are_released_and_selected_by_number() -> None:
    images = draw(3)
    settled = SettledPixels(images)
    for lane in range(3):
        settled.settle(lane, images[lane] + 0.1 * lane, STAGES)
    before = settled.apply(images)
    settled.release(torch.tensor([1]))
    assert torch.equal(settled.apply(images)[1], images[1])
    settled.select(torch.tensor([2, 1]))
    assert torch.equal(settled.apply(images[[2, 1]]), torch.stack([before[2], images[1]]))


def test_the_objective_of_the_free_pixels_sees_the_others_where_they_are() -> None:
    images = draw(2)
    settled = SettledPixels(images)
    now = settled.settle(0, images[0], 1)

    def squares(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.square().sum((1, 2, 3)).double(), 2 * x

    moved = images + 0.3
    value, gradient = settled.hold(squares)(moved)
    free = ~is_8_bit(now)
    seen = torch.where(free, moved[0], now)
    assert value[0] == pytest.approx(seen.square().sum().item())
    assert torch.equal(gradient[0][free], 2 * moved[0][free])
    assert (gradient[0][~free] == 0).all()
    assert torch.equal(gradient[1], 2 * moved[1])


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [(0, 0), (31, 0), (32, 2), (100, 6), (160, 10), (1000, STAGE_EVALUATIONS)],
)
def test_stages_take_a_quarter_of_a_level_at_most(evaluations: int, expected: int) -> None:
    assert count_stage_evaluations(evaluations) == expected


def test_where_rounding_costs_much_the_stored_image_keeps_the_loss(
    network: TextureNetwork,
) -> None:
    # What is minimised is what is reported.
    config = dataclasses.replace(
        CONFIG, gram_weight=1e9, spectrum="gray", spectrum_weight="reference", evaluations=700
    )
    exemplars = draw()
    (at_once,) = synthesize(exemplars, [0], dataclasses.replace(config, settle=False), network)
    (settled,) = synthesize(exemplars, [0], config, network)
    assert at_once.delivered_loss.total > 1.5 * at_once.float_loss.total
    assert settled.delivered_loss.total < 1.1 * settled.float_loss.total
    assert settled.delivered_loss.total < 0.8 * at_once.delivered_loss.total
    assert settled.evaluations == at_once.evaluations == 700
    assert is_8_bit(settled.image).float().mean() > 0.99


def test_where_rounding_costs_little_all_evaluations_go_on(network: TextureNetwork) -> None:
    exemplars = draw()
    config = dataclasses.replace(CONFIG, evaluations=33)
    (at_once,) = synthesize(exemplars, [0], dataclasses.replace(config, settle=False), network)
    (asked,) = synthesize(exemplars, [0], config, network)
    assert at_once.delivered_loss.total < 1.02 * at_once.float_loss.total
    assert asked.evaluations == at_once.evaluations == 33
    # One evaluation went to asking.
    assert asked.iterations == at_once.iterations - 1
    assert not is_8_bit(asked.image).all()


@pytest.mark.parametrize("stop", ["plateau", "budget"])
def test_the_reason_to_stop_is_the_one_before_pixels_settled(
    network: TextureNetwork, stop: str
) -> None:
    changes: dict[str, Any] = {"plateau_tolerance": 0.3, "plateau_evaluations": 20}
    config = dataclasses.replace(CONFIG, **(changes if stop == "plateau" else {}))
    (result,) = synthesize(draw(), [0], config, network)
    assert result.stop_reason == stop
    assert is_8_bit(result.image).float().mean() > 0.99


def test_a_lane_that_settles_does_not_know_its_neighbours(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TextureObjective.value_and_gradient

    def run(poisoned: int | None = None) -> list[Task]:
        def evaluate(self: TextureObjective, images: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = plain(self, images)
            if poisoned is not None and len(value) > 1:
                value[poisoned] = torch.nan
            return value, gradient

        monkeypatch.setattr(TextureObjective, "value_and_gradient", evaluate)
        tasks = [
            Task(index, draw(seed=index)[0], draw(seed=9 + index)[0], budget)
            for index, budget in enumerate((150, 200, 180))
        ]
        batch = LaneBatch(network, CONFIG, (32, 32), full_size=(32, 32))
        batch.admit(tasks)
        while batch.running:
            batch.advance()
        return tasks

    clean, spoilt = run(), run(poisoned=1)
    assert spoilt[1].stop_reason == "diverged"
    for index in (0, 2):
        assert torch.equal(clean[index].image, spoilt[index].image)
        assert clean[index].curve == spoilt[index].curve
        assert is_8_bit(clean[index].image).float().mean() > 0.99


@pytest.mark.parametrize(
    "changes",
    [
        {"keep_best": False},
        pytest.param({"weighting": "sensitivity"}, marks=pytest.mark.slow),
        pytest.param({"levels": 2}, marks=pytest.mark.slow),
    ],
)
def test_pixels_settle_whatever_else_is_set(
    network: TextureNetwork, changes: dict[str, Any]
) -> None:
    config = dataclasses.replace(CONFIG, evaluations=240, **changes)
    (result,) = synthesize(draw(side=64), [0], config, network)
    assert result.evaluations <= 240
    assert is_8_bit(result.image).float().mean() > 0.99


def test_what_is_due_when_work_is_interrupted_is_done_later(network: TextureNetwork) -> None:
    work = prepare_synthesis(draw(), [0], CONFIG, network, lanes=1)
    limit = 200 - STAGES * STAGE_EVALUATIONS - 1

    def is_at_limit() -> bool:
        return work.checkpoints()[0].spent >= limit

    while not work.checkpoints() or not is_at_limit():
        work.advance(is_at_limit)
    (point,) = work.checkpoints()
    assert point.spent == limit
    assert is_8_bit(point.image).float().mean() < 0.1
    results = []
    while work.unfinished:
        results += work.advance()
    assert results[0].evaluations == 200
    assert is_8_bit(results[0].image).float().mean() > 0.99


def test_going_on_makes_all_pixels_free_again(network: TextureNetwork) -> None:
    task = Task(0, draw()[0], draw(seed=1)[0], 200)
    batch = LaneBatch(network, CONFIG, (32, 32), full_size=(32, 32))
    batch.admit([task])
    while batch.running:
        batch.advance()
    first = task.image
    batch.resume(40)
    (point,) = batch.checkpoints()
    assert torch.equal(point.image.clamp(0, 1), first)
    while batch.running:
        batch.advance()
    assert task.spent == 240
    moved = (task.image - first).abs() > 0
    assert moved.float().mean() > 0.5


def test_a_checkpoint_of_settling_pixels_is_resumed(network: TextureNetwork) -> None:
    exemplars = draw()
    work = prepare_synthesis(exemplars, [0], CONFIG, network, lanes=1)
    while not work.checkpoints() or work.checkpoints()[0].spent < 175:
        work.advance()
    (point,) = work.checkpoints()
    assert is_8_bit(point.image).float().mean() > 0.7
    again = prepare_synthesis(exemplars, [0], CONFIG, network, lanes=1, checkpoints={0: point})
    results = []
    while again.unfinished:
        results += again.advance()
    assert results[0].evaluations <= 200
    # All pixels are free again in what is left.
    assert ((results[0].image - point.image).abs() > 1e-5).float().mean() > 0.3
