from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import (
    LBFGSConfig,
    Synthesis,
    SynthesisConfig,
    SynthesisResult,
    TaskCheckpoint,
    TextureNetwork,
    TextureObjective,
    prepare_synthesis,
    synthesize,
)
from texsynth.config import Weighting
from texsynth.lanes import LaneBatch
from texsynth.sensitivity import PROBE_COST
from texsynth.tasks import CURVE_POINTS, Task

CONFIG = SynthesisConfig(
    gram_weight=1e6,
    spectrum_weight=1e-2 * (32 / 256) ** 2,  # a factor of 1e3 at 32 px
    range_weight=1e3,
    settle=False,
    weighting="none",
    evaluations=40,
    levels=1,
)
TWO_LEVELS = dataclasses.replace(CONFIG, levels=2, evaluations=45)
"""Without weights, 20 evaluations of the coarse level, a quarter each, and 40 of the fine."""
WEIGHTINGS: list[Weighting] = ["none", "sensitivity"]
SHORT = dataclasses.replace(TWO_LEVELS, evaluations=11.25)
"""Five evaluations and ten, looked at after the first and the last."""


@pytest.fixture(scope="module")
def network(make_network: Callable[..., TextureNetwork]) -> TextureNetwork:
    """Two convolutions in float32: taps relu1_1 and pool1 at 32 px and above."""
    return make_network(deepest="relu1_2").float()


def draw(lanes: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((lanes, 3, height, width), generator=generator)


def drive(synthesis: Synthesis) -> list[SynthesisResult]:
    """To the end; results in the order of the exemplars."""
    results = []
    while synthesis.unfinished:
        results += synthesis.advance()
    return sorted(results, key=lambda result: result.index)


def interrupt(
    exemplars: Tensor, config: SynthesisConfig, network: TextureNetwork, steps: int, **more: Any
) -> dict[int, TaskCheckpoint]:
    """Checkpoints after so many steps of a synthesis that is then dropped."""
    synthesis = prepare_synthesis(exemplars, range(len(exemplars)), config, network, **more)
    for _ in range(steps):
        synthesis.advance()
    return {checkpoint.index: checkpoint for checkpoint in synthesis.checkpoints()}


def resume(
    exemplars: Tensor,
    config: SynthesisConfig,
    network: TextureNetwork,
    checkpoints: dict[int, TaskCheckpoint],
    **more: Any,
) -> Synthesis:
    seeds = range(len(exemplars))
    return prepare_synthesis(exemplars, seeds, config, network, checkpoints=checkpoints, **more)


@pytest.fixture
def three_kinds(network: TextureNetwork) -> dict[int, TaskCheckpoint]:
    """Exemplar 0 is at the finest level, 1 between the two, 2 at the coarsest."""
    synthesis = (interrupt(draw(3), SHORT, network, steps) for steps in (3, 2, 1))
    checkpoints = {index: taken[index] for index, taken in enumerate(synthesis)}
    places = [(taken.level, taken.level_evaluations) for taken in checkpoints.values()]
    assert places == [(1, 1), (1, 0), (0, 1)]
    return checkpoints


def objective_loss(
    image: Tensor, exemplar: Tensor, config: SynthesisConfig, network: TextureNetwork
) -> float:
    return TextureObjective(network, exemplar[None], config)(image[None]).total.item()


# Step by step


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_steps_give_what_synthesize_gives(network: TextureNetwork, weighting: Weighting) -> None:
    exemplars, config = draw(5), dataclasses.replace(TWO_LEVELS, weighting=weighting)
    stepped = drive(prepare_synthesis(exemplars, range(5), config, network, lanes=2))
    whole = synthesize(exemplars, range(5), config, network, lanes=2)
    for one, other in zip(stepped, sorted(whole, key=lambda r: r.index), strict=True):
        assert torch.equal(one.image, other.image)
        assert one.loss_curve == other.loss_curve
        assert one.resumed_at == other.resumed_at == ()


@pytest.mark.parametrize("lanes", [1, 2, 3, 9])
def test_beginning_names_the_tasks_that_the_next_step_puts_on_their_first_lane(
    network: TextureNetwork,
    three_kinds: dict[int, TaskCheckpoint],
    monkeypatch: pytest.MonkeyPatch,
    lanes: int,
) -> None:
    admitted: list[int] = []
    admit = LaneBatch.admit

    def spy(self: LaneBatch, tasks: Sequence[Task]) -> None:
        admitted.extend(task.index for task in tasks)
        admit(self, tasks)

    monkeypatch.setattr(LaneBatch, "admit", spy)
    for checkpoints in ({}, three_kinds):
        synthesis = resume(draw(5), SHORT, network, checkpoints, lanes=lanes)
        begun: list[int] = []
        while synthesis.unfinished:
            named = synthesis.beginning
            assert named == synthesis.beginning
            admitted.clear()
            synthesis.advance()
            assert named == [index for index in admitted if index not in begun]
            begun += named
        assert sorted(begun) == list(range(5))
        assert synthesis.beginning == synthesis.advance() == synthesis.checkpoints() == []


def test_looking_at_a_synthesis_changes_nothing(network: TextureNetwork) -> None:
    watched, alone = (
        prepare_synthesis(draw(3), range(3), TWO_LEVELS, network, lanes=2) for _ in range(2)
    )
    results = []
    while watched.unfinished:
        _ = watched.beginning, watched.progress(), watched.checkpoints()
        results += watched.advance()
    results.sort(key=lambda result: result.index)
    for one, other in zip(results, drive(alone), strict=True):
        assert torch.equal(one.image, other.image)
        assert one.loss_curve == other.loss_curve


def test_progress_is_of_the_level_that_the_last_step_was_at(network: TextureNetwork) -> None:
    synthesis = prepare_synthesis(draw(3), range(3), TWO_LEVELS, network, lanes=2)
    assert synthesis.progress() == []
    synthesis.advance()
    assert [progress.index for progress in synthesis.progress()] == [0, 1]
    sides = set()
    while synthesis.unfinished:
        ended = {result.index for result in synthesis.advance()}
        assert ended <= {progress.index for progress in synthesis.progress()}
        now = {progress.point.side for progress in synthesis.progress()}
        assert len(now) == 1
        sides |= now
    assert sides == {16, 32}


def test_tasks_that_could_not_be_put_on_their_lanes_still_wait(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drive(prepare_synthesis(draw(2), range(2), CONFIG, network))
    synthesis = prepare_synthesis(draw(2), range(2), CONFIG, network)

    def refuse(*arguments: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(TextureObjective, "__init__", refuse)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            synthesis.advance()
    assert synthesis.beginning == [0, 1]
    for one, other in zip(drive(synthesis), expected, strict=True):
        assert torch.equal(one.image, other.image)


# Checkpoints


def test_checkpoints_are_of_what_has_begun_and_not_ended(network: TextureNetwork) -> None:
    synthesis = prepare_synthesis(draw(3), range(3), TWO_LEVELS, network, lanes=1)
    assert synthesis.checkpoints() == []
    begun: set[int] = set()
    ended: set[int] = set()
    places = set()
    while synthesis.unfinished:
        begun |= set(synthesis.beginning)
        ended |= {result.index for result in synthesis.advance()}
        checkpoints = synthesis.checkpoints()
        assert {checkpoint.index for checkpoint in checkpoints} == begun - ended
        for checkpoint in checkpoints:
            assert checkpoint.image.dtype == torch.float32
            places.add((checkpoint.level, checkpoint.level_evaluations, checkpoint.image.shape[1]))
    assert places == {
        *((0, spent, 16) for spent in (1, 10)),
        (1, 0, 16),
        *((1, spent, 32) for spent in (1, 10, 20, 30)),
    }


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_checkpoint_holds_the_image_that_the_task_would_have_ended_with(
    network: TextureNetwork, keep_best: bool
) -> None:
    # Without a line search the loss goes up and down: its lowest point is not its last.
    config = SynthesisConfig.preset("reference", evaluations=50, keep_best=keep_best)
    synthesis = prepare_synthesis(draw(1), [0], config, network)
    for spent in (1, 10, 20, 30, 40):
        synthesis.advance()
        (checkpoint,) = synthesis.checkpoints()
        shorter = dataclasses.replace(config, evaluations=spent)
        (result,) = synthesize(draw(1), [0], shorter, network)
        assert torch.equal(checkpoint.image, result.image)
        assert checkpoint.curve == result.loss_curve
        assert (checkpoint.spent, checkpoint.iterations) == (result.evaluations, result.iterations)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_resumed_task_spends_what_was_left_and_never_gets_worse(
    network: TextureNetwork, steps: int
) -> None:
    exemplars = draw(2)
    config = dataclasses.replace(TWO_LEVELS, plateau_tolerance=0.0)
    checkpoints = interrupt(exemplars, config, network, steps)
    whole = drive(prepare_synthesis(exemplars, range(2), config, network))
    for result in drive(resume(exemplars, config, network, checkpoints)):
        before, expected = checkpoints[result.index], whole[result.index]
        assert result.evaluations == expected.evaluations == 45
        assert result.resumed_at == (before.spent,)
        assert result.loss_curve[: len(before.curve)] == before.curve
        assert [p[::2] for p in result.loss_curve] == [p[::2] for p in expected.loss_curve]
        assert result.iterations > before.iterations
        assert result.seconds > before.seconds
        exemplar = exemplars[result.index]
        if before.level == 1:
            then = objective_loss(before.image, exemplar, config, network)
            assert result.objective_loss <= then * (1 + 1e-6)
        assert result.objective_loss < 2 * expected.objective_loss


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_resumed_task_is_one_that_starts_from_its_image(
    network: TextureNetwork, weighting: Weighting
) -> None:
    config = dataclasses.replace(CONFIG, weighting=weighting)
    checkpoints = interrupt(draw(1), config, network, 3)
    (resumed,) = drive(resume(draw(1), config, network, checkpoints))
    rest = dataclasses.replace(config, evaluations=config.evaluations - checkpoints[0].spent)
    (started,) = synthesize(draw(1), [0], rest, network, start=checkpoints[0].image[None])
    assert torch.equal(resumed.image, started.image)
    assert resumed.objective_loss == started.objective_loss
    assert resumed.iterations == checkpoints[0].iterations + started.iterations


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_nothing_is_lost_between_two_levels(network: TextureNetwork, weighting: Weighting) -> None:
    config = dataclasses.replace(TWO_LEVELS, weighting=weighting)
    spent = 20 / 4 if weighting == "none" else (19 + PROBE_COST) / 4
    checkpoints = interrupt(draw(1), config, network, 3)
    assert (checkpoints[0].level, checkpoints[0].level_evaluations) == (1, 0)
    assert checkpoints[0].image.shape == (3, 16, 16)
    (resumed,) = drive(resume(draw(1), config, network, checkpoints))
    (expected,) = synthesize(draw(1), [0], config, network)
    assert torch.equal(resumed.image, expected.image)
    assert resumed.loss_curve == expected.loss_curve
    assert resumed.evaluations == expected.evaluations
    assert resumed.resumed_at == (spent,)


def test_a_resumed_task_can_be_interrupted_again(network: TextureNetwork) -> None:
    checkpoints = interrupt(draw(1), TWO_LEVELS, network, 2)
    # Before it is back on a lane there is nothing new to tell.
    waiting = interrupt(draw(1), TWO_LEVELS, network, 0, checkpoints=checkpoints)
    assert torch.equal(waiting[0].image, checkpoints[0].image)
    assert waiting[0].curve == checkpoints[0].curve
    assert waiting[0].resumed_at == checkpoints[0].resumed_at == ()
    again = interrupt(draw(1), TWO_LEVELS, network, 2, checkpoints=waiting)
    assert again[0].resumed_at == (2.5,)
    assert (again[0].level, again[0].level_evaluations) == (1, 1)
    (result,) = drive(resume(draw(1), TWO_LEVELS, network, again))
    assert result.resumed_at == (2.5, 6)
    assert result.evaluations == 45
    assert result.loss_curve[: len(again[0].curve)] == again[0].curve


@pytest.mark.parametrize(("size", "levels"), [((33, 47), 2), ((64, 65), 3)])
def test_wherever_it_is_interrupted_the_budget_is_the_same(
    network: TextureNetwork,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    levels: int,
) -> None:
    cost = 0.0

    def cheap(self: TextureObjective, images: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal cost
        cost += math.prod(images.shape[-2:]) / math.prod(size)
        return images.sum((1, 2, 3)).double(), torch.ones_like(images)

    monkeypatch.setattr(TextureObjective, "value_and_gradient", cheap)
    config = dataclasses.replace(CONFIG, levels=levels, plateau_tolerance=0.0)
    (expected,) = drive(prepare_synthesis(draw(1, *size), [0], config, network))
    for steps in itertools.count(1):
        cost = 0.0
        checkpoints = interrupt(draw(1, *size), config, network, steps)
        if not checkpoints:
            break
        (result,) = drive(resume(draw(1, *size), config, network, checkpoints))
        assert result.evaluations == pytest.approx(expected.evaluations, rel=1e-9)
        assert cost == pytest.approx(expected.evaluations, rel=1e-9)
    assert steps == len(expected.loss_curve)


def test_a_resumed_task_measures_anew_and_pays_for_it(network: TextureNetwork) -> None:
    config = dataclasses.replace(
        TWO_LEVELS, weighting="sensitivity", plateau_tolerance=0.0, evaluations=50
    )
    (whole,) = drive(prepare_synthesis(draw(1), [0], config, network))
    for steps, cost in ((2, 1 / 4), (6, 1.0)):
        checkpoints = interrupt(draw(1), config, network, steps)
        assert checkpoints[0].level_evaluations > 0
        (result,) = drive(resume(draw(1), config, network, checkpoints))
        assert result.resumed_at == (checkpoints[0].spent,)
        assert result.loss_curve[: len(checkpoints[0].curve)] == checkpoints[0].curve
        following = result.loss_curve[len(checkpoints[0].curve)].evaluations
        assert following == checkpoints[0].spent + cost * (PROBE_COST + 10)
        for task in (whole, result):
            assert config.evaluations - 1 - 1 / 4 < task.evaluations <= config.evaluations


def test_a_curve_stays_short_over_an_interruption(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slope_down(self: TextureObjective, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.sum((1, 2, 3)).double(), torch.ones_like(images)

    monkeypatch.setattr(TextureObjective, "value_and_gradient", slope_down)
    config = dataclasses.replace(
        CONFIG, evaluations=900, plateau_tolerance=0.0, optimizer=LBFGSConfig(history=1)
    )
    checkpoints = interrupt(draw(1), config, network, 60)
    (result,) = drive(resume(draw(1), config, network, checkpoints))
    spent = [point.evaluations for point in result.loss_curve]
    assert len(spent) == CURVE_POINTS
    assert spent == sorted(spent)
    assert (spent[0], spent[-1], result.resumed_at) == (1, 900, (590,))


def test_time_limit_counts_the_seconds_before_an_interruption(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("texsynth.lanes.time", SimpleNamespace(monotonic=lambda: next(clock)))
    # Every step takes one second of this clock, the first one more, for the admission.
    config = dataclasses.replace(CONFIG, time_limit_s=7.0, evaluations=200)
    checkpoints = interrupt(draw(1), config, network, 3)
    assert checkpoints[0].seconds == 4.0
    (result,) = drive(resume(draw(1), config, network, checkpoints))
    assert (result.stop_reason, result.seconds, result.evaluations) == ("time_limit", 7.0, 40)
    late = {0: dataclasses.replace(checkpoints[0], seconds=100.0)}
    (result,) = drive(resume(draw(1), config, network, late))
    assert (result.stop_reason, result.seconds, result.evaluations) == ("time_limit", 102.0, 30)


def test_plateau_looks_back_over_an_interruption(network: TextureNetwork) -> None:
    config = dataclasses.replace(
        CONFIG, plateau_tolerance=1e6, plateau_evaluations=30, evaluations=200
    )
    (expected,) = synthesize(draw(1), [0], config, network)
    checkpoints = interrupt(draw(1), config, network, 3)
    (result,) = drive(resume(draw(1), config, network, checkpoints))
    assert (result.stop_reason, result.evaluations) == ("plateau", 40)
    assert (expected.stop_reason, expected.evaluations) == ("plateau", 40)


def test_a_checkpoint_above_the_lowest_loss_seen_is_no_plateau(network: TextureNetwork) -> None:
    config = SynthesisConfig.preset("reference", evaluations=50, plateau_evaluations=10)
    assert not config.keep_best
    checkpoints = interrupt(draw(1), config, network, 3)
    lower = {0: dataclasses.replace(checkpoints[0], readings=((10, 1e-9), (20, 1e-9)))}
    (result,) = drive(resume(draw(1), config, network, lower))
    assert (result.stop_reason, result.evaluations) == ("budget", 50)


def test_checkpoints_hold_no_more_readings_than_the_plateau_rule_needs(
    network: TextureNetwork,
) -> None:
    config = dataclasses.replace(
        CONFIG, plateau_tolerance=0.0, plateau_evaluations=30, evaluations=200
    )
    (checkpoint,) = interrupt(draw(1), config, network, 15).values()
    assert [at for at, _ in checkpoint.readings] == [110, 120, 130, 140]


def test_resumed_tasks_and_a_new_one_give_what_each_gives_alone(
    network: TextureNetwork, three_kinds: dict[int, TaskCheckpoint]
) -> None:
    # Images of two sizes come onto the lanes of the finest level at once.
    exemplars = draw(4)
    together = drive(resume(exemplars, SHORT, network, three_kinds, lanes=2))
    assert [result.resumed_at for result in together] == [(2.25,), (1.25,), (0.25,), ()]
    for index, one in enumerate(together):
        (alone,) = drive(
            prepare_synthesis(
                exemplars[index : index + 1],
                [index],
                SHORT,
                network,
                checkpoints={0: three_kinds[index]} if index in three_kinds else {},
            )
        )
        assert one.evaluations == alone.evaluations == 11.25
        assert [point[::2] for point in one.loss_curve] == [p[::2] for p in alone.loss_curve]
        assert one.objective_loss == pytest.approx(alone.objective_loss, rel=0.05)


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        (1, {}, "a checkpoint is of exemplar 1, expected 0 to 0"),
        (0, {"level": 2}, "checkpoint of exemplar 0 is at level 2, expected 0 to 1"),
        (0, {"level": 1}, r"\[3, 16, 16\], expected torch.float32 \[3, 32, 32\] at level 1"),
        (0, {"image": draw(1, 16, 16)[0] / 0}, "768 NaN or infinite values"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_before_work(
    network: TextureNetwork, index: int, changes: dict[str, Any], message: str
) -> None:
    checkpoint = dataclasses.replace(interrupt(draw(1), TWO_LEVELS, network, 2)[0], **changes)
    with pytest.raises(ValueError, match=message):
        resume(draw(1), TWO_LEVELS, network, {index: checkpoint})


def test_interruptions_leave_everything_for_later_and_change_nothing(
    network: TextureNetwork,
) -> None:
    exemplars = draw(3)
    whole = drive(prepare_synthesis(exemplars, range(3), TWO_LEVELS, network, lanes=2))
    synthesis = prepare_synthesis(exemplars, range(3), TWO_LEVELS, network, lanes=2)
    results, calls = [], []
    while synthesis.unfinished:
        results += synthesis.advance(lambda: not calls.append(1))
    assert len(calls) > 2 * TWO_LEVELS.evaluations
    for again, result in zip(sorted(results, key=lambda r: r.index), whole, strict=True):
        assert torch.equal(again.image, result.image)
        assert again.loss_curve == result.loss_curve
        assert again.evaluations == result.evaluations
