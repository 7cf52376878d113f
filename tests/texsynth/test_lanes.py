from __future__ import annotations

import torch

from texsynth.lanes import CURVE_POINTS, Task


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_of(index: int = 0, *, side: int = 32, budget: float = 20.0) -> Task:
    """A task whose exemplar and start are drawn from its index."""
    exemplar, image = draw(2, 3, side, side, seed=index)
    return Task(index, exemplar, image, budget)


def test_curve_is_thinned_evenly_and_keeps_its_ends() -> None:
    task = task_of()
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
