from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from texsynth import SynthesisConfig, TextureNetwork
from texsynth.lanes import CURVE_POINTS, LaneBatch, Task

CONFIG = SynthesisConfig(gram_weight=1e6, spectrum_weight=1e3, range_weight=1e3, levels=1)
SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Work this small is slower on two threads, much slower where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network(make_network: Callable[..., TextureNetwork]) -> TextureNetwork:
    """Two convolutions in float32: taps relu1_1 and pool1 at 32 px."""
    return make_network(deepest="relu1_2").float()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_of(index: int = 0, *, budget: float = 20.0) -> Task:
    """A task whose exemplar and start are drawn from its index."""
    exemplar, image = draw(2, 3, SIDE, SIDE, seed=index)
    return Task(index, exemplar, image, budget)


def batch_of(network: TextureNetwork, config: SynthesisConfig) -> LaneBatch:
    return LaneBatch(network, config, (SIDE, SIDE), full_size=(SIDE, SIDE))


def run(batch: LaneBatch, refill: Sequence[Task] = ()) -> list[Task]:
    """Advance to the end, putting the next task on a lane as soon as one is free."""
    waiting, ended = list(refill), []
    while batch.running:
        ended += (now := batch.advance())
        if now and waiting:
            batch.admit([waiting.pop(0) for _ in range(min(len(now), len(waiting)))])
    return ended


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


def test_readings_of_a_lane_do_not_depend_on_when_others_join(network: TextureNetwork) -> None:
    curves = []
    for companions in (False, True):
        batch = batch_of(network, CONFIG)
        task = task_of(0, budget=48)
        batch.admit([task, task_of(1, budget=13)] if companions else [task])
        run(batch, refill=[task_of(2, budget=8), task_of(3, budget=9)] if companions else [])
        curves.append([point.evaluations for point in task.curve])
    assert curves[0] == curves[1] == [1, 10, 20, 30, 40, 48]
