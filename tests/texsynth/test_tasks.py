from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from texsynth import CurvePoint, TaskCheckpoint
from texsynth.tasks import CURVE_POINTS, Task, resume_task, validate_checkpoint

SIZES = [(8, 12), (16, 24), (32, 48)]


def checkpoint_at(level: int, *, level_evaluations: int = 10, size: int = 0) -> TaskCheckpoint:
    """A checkpoint with an image of the size of a level."""
    return TaskCheckpoint(
        index=3,
        level=level,
        level_evaluations=level_evaluations,
        image=torch.rand((3, *SIZES[size]), generator=torch.Generator().manual_seed(level)),
        spent=12.5,
        iterations=9,
        seconds=1.5,
        curve=(CurvePoint(1, 5.0, 8), CurvePoint(12.5, 4.0, 8)),
        readings=((1, 5.0), (10, 4.0)),
        resumed_at=(2.5,),
    )


def resume(checkpoint: TaskCheckpoint) -> Task:
    return resume_task(checkpoint, 3, torch.zeros(3, *SIZES[-1]), budget=100, seed=7)


def test_curve_is_thinned_evenly_and_keeps_its_ends() -> None:
    task = Task(0, torch.zeros(3, 32, 32), torch.zeros(3, 32, 32), budget=1e4)
    for reading in range(1, 1001):
        task.spent = 10.0 * reading
        task.record(loss=1.0 / reading, side=32)
        assert len(task.curve) <= CURVE_POINTS
        assert (task.curve[0].evaluations, task.curve[-1].evaluations) == (10.0, task.spent)
    spent = torch.tensor([point.evaluations for point in task.curve])
    assert [point.loss for point in task.curve] == [10.0 / float(at) for at in spent]
    gaps = spent.diff()
    # 1,000 readings on 64 points leave one in 16; a gap may be one halving ahead of the rest.
    assert gaps.min() >= 80
    assert gaps.max() <= 320


def test_a_resumed_task_gives_its_checkpoint_back() -> None:
    given = checkpoint_at(1, size=1)
    exemplar = torch.zeros(3, *SIZES[-1])
    task = resume_task(given, 3, exemplar, budget=100, seed=7)
    again = task.make_checkpoint(task.image)
    for field in dataclasses.fields(TaskCheckpoint):
        one, other = getattr(given, field.name), getattr(again, field.name)
        assert torch.equal(one, other) if field.name == "image" else one == other
    assert (task.exemplar is exemplar, task.budget, task.seed, task.begun) == (True, 100, 7, False)


def test_a_checkpoint_does_not_change_with_its_task() -> None:
    task = resume(checkpoint_at(1, size=1))
    task.begin()
    taken = task.make_checkpoint(task.image)
    curve, image = taken.curve, taken.image.clone()
    task.record(1.0, 16)
    task.image.zero_()
    task.enter_next_level()
    assert (taken.curve, taken.level, taken.readings) == (curve, 1, ((1, 5.0), (10, 4.0)))
    assert torch.equal(taken.image, image)


def test_a_task_notes_where_it_went_on_once() -> None:
    task = resume(checkpoint_at(1, size=1))
    task.begin()
    task.spent = 50.0
    task.enter_next_level()
    task.begin()
    assert task.resumed_at == (2.5, 12.5)
    new = Task(0, torch.zeros(3, 32, 48), torch.zeros(3, 8, 12), budget=100)
    new.begin()
    assert new.resumed_at == ()


def test_a_level_begins_without_what_was_seen_of_the_one_before() -> None:
    task = resume(checkpoint_at(1, size=1))
    task.enter_next_level()
    assert (task.level, task.level_evaluations, task.readings) == (2, 0, [])
    assert (task.spent, task.iterations, len(task.curve)) == (12.5, 9, 2)


@pytest.mark.parametrize(
    "checkpoint",
    [
        checkpoint_at(0),
        checkpoint_at(2, size=2),
        checkpoint_at(1, level_evaluations=0),
        checkpoint_at(2, level_evaluations=0, size=1),
    ],
    ids=["coarsest", "finest", "before second", "before last"],
)
def test_checkpoints_at_and_between_levels_are_taken(checkpoint: TaskCheckpoint) -> None:
    validate_checkpoint(checkpoint, SIZES, "checkpoint")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 3}, "is at level 3, expected 0 to 2"),
        ({"level": -1}, "is at level -1, expected 0 to 2"),
        ({"level": 2}, r"\[3, 16, 24\], expected torch.float32 \[3, 32, 48\] at level 2"),
        (
            {"level": 1, "level_evaluations": 0},
            r"float32 \[3, 8, 12\] before level 1",
        ),
        ({"image": torch.rand(3, 24, 16)}, r"\[3, 24, 16\], expected torch.float32 \[3, 16, 24\]"),
        ({"image": torch.rand(16, 24)}, r"\[16, 24\], expected"),
        ({"image": torch.rand(3, 16, 24).double()}, "torch.float64 .*, expected torch.float32"),
        ({"image": torch.rand(3, 16, 24) / 0}, "image with 1152 NaN or infinite values"),
        (
            {"image": torch.tensor([0.0, torch.nan, 0.0]).view(3, 1, 1).expand(3, 16, 24)},
            "image with 384 NaN or infinite values, expected none",
        ),
    ],
)
def test_wrong_checkpoints_are_refused(changes: dict[str, Any], message: str) -> None:
    checkpoint = dataclasses.replace(checkpoint_at(1, size=1), **changes)
    with pytest.raises(ValueError, match="checkpoint of row 7 .*" + message):
        validate_checkpoint(checkpoint, SIZES, "checkpoint of row 7")
